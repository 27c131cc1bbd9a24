#pragma once
// What training does to pictures, as torchvision defines it. Each random number is a pure function of (seed, epoch, position in the order
// of the epoch).
#include <cstdint>
#include <string>
#include <vector>

#include "data/resize.h"
#include "engine/tensor.h"

namespace pipecast {

// In the order in which they are applied.
struct Augmentation {
  bool crop = false;  // pad by 4 black pixels on every side (before normalising), then cut out the old size at a random place
  bool flip = false;  // left to right, half of the time
  // Before those: a rectangle of at least this share of the picture's area, at a random place, scaled to the image; 0: none.
  float resized_crop = 0;
  // Also before those: brightness, contrast and saturation change by factors in 1 - colours to 1 + colours, the hue by up to `hue` turns.
  float colours = 0, hue = 0;
  // After normalising: a rectangle becomes the mean with this probability; a square of so many pixels a side does; 0: none.
  float erasing = 0;
  int64_t cutout = 0;
  // Last: a sample becomes a mixture of itself and the next one in the order of the epoch, after all of the above, with a share drawn from
  // Beta(mixup, mixup) (Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018); 0: none.
  float mixup = 0;
  bool operator==(const Augmentation&) const = default;
  bool any() const { return *this != Augmentation{}; }
};

// "crop,flip,cutout:8", "none" or "": names in any order, some followed by a colon and a number. Throws UsageError.
Augmentation parse_augmentation(const std::string&);
const std::vector<std::string>& augmentation_names();

// Which sample of which epoch random numbers are for.
struct Draw {
  uint64_t seed;
  int64_t epoch, position;
};

// The share of a sample in its mixture: a number from Beta(alpha, alpha).
float mixing_share(float alpha, const Draw&);

// RandomResizedCrop: the share of the area is uniform in least_area to 1, the logarithm of width / height in that of 3/4 to 4/3. After ten
// rectangles that do not fit, it is the largest one in the middle with such a ratio.
Box random_box(float least_area, const Draw&, int64_t height, int64_t width);

// ColorJitter: brightness, contrast, saturation and hue in a random order. The picture is {1, height, width, 1 or 3} in bytes; one channel
// has neither saturation nor hue.
void change_colours(float colours, float hue, const Draw&, const Shape&, uint8_t* picture);

// Its parts. A factor of 1 changes nothing, one of 0 leaves black, the mean grey, or grey. A hue is turned by `turns` of the circle.
void change_brightness(float factor, const Shape&, uint8_t* picture);
void change_contrast(float factor, const Shape&, uint8_t* picture);
void change_saturation(float factor, const Shape&, uint8_t* picture);
void change_hue(float turns, const Shape&, uint8_t* picture);

// RandomErasing with the value 0: an area of .02 to .33, a height / width of .3 to 3.3 (both as in random_box), within the normalised
// image.
void erase(float probability, const Draw&, const Shape&, float* image);

// Sets a square within the normalised image to 0, the mean; one that is larger than the image covers it all.
void cut_out(int64_t side, const Draw&, const Shape&, float* image);

}  // namespace pipecast
