#pragma once
// Pictures of another size.
#include <cstdint>
#include <vector>

#include "engine/tensor.h"

namespace pipecast {

// A rectangle of a picture, in pixels.
struct Box {
  int64_t top, left, height, width;
  bool operator==(const Box&) const = default;
};

// Scales the rectangle `from` of a picture to height x width and returns the rectangle `window` of that, {window.height, window.width,
// channels}. Bilinear, and each pixel is a mean over all that it covers where the picture becomes smaller: Pillow's BILINEAR, torchvision's
// Resize with antialias. Rounded to bytes after the rows and after the columns, as there.
void resize(const uint8_t* picture, const Shape&, const Box& from, int64_t height, int64_t width, const Box& window,
            std::vector<uint8_t>& to);

// torchvision's Resize(shorter) and CenterCrop(side): the shorter side becomes `shorter`, then a square of side <= shorter is taken from
// the middle.
void resize_and_crop(const uint8_t* picture, const Shape&, int64_t shorter, int64_t side, std::vector<uint8_t>& to);

}  // namespace pipecast
