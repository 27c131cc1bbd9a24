#pragma once
// What training does to pictures. Each random number is a pure function of (seed, epoch, position in the order of the epoch).
#include <cstdint>
#include <string>

#include "engine/tensor.h"

namespace pipecast {

struct Augmentation {
  bool crop = false;   // pad by 4 black pixels on every side (before normalising), then cut out the old size at a random place
  bool flip = false;   // left to right, half of the time
  int64_t cutout = 0;  // a square of so many pixels a side, at a random place within the image, becomes the mean; 0: none
  bool any() const { return crop || flip || cutout > 0; }
};

// "crop,flip,cutout:8", "none" or "": names in any order, some followed by a colon and a number. Throws UsageError.
Augmentation parse_augmentation(const std::string&);

// Which sample of which epoch random numbers are for.
struct Draw {
  uint64_t seed;
  int64_t epoch, position;
};

// Sets a square of the normalised image, {1, height, width, channels}, to 0, the mean; one that is larger than the image covers it all.
void cut_out(int64_t side, const Draw&, const Shape&, float* image);

}  // namespace pipecast
