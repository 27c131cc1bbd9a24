#pragma once
// How a camera was held: the orientation in a picture's EXIF data.
#include <cstdint>
#include <string_view>

#include "engine/tensor.h"

namespace pipecast {

// The orientation that EXIF data give: 1 where the picture is stored upright, 2 to 8 where it is mirrored or turned. 1, too, where they
// give none or are damaged. `exif` begins with its TIFF header.
int exif_orientation(std::string_view exif);

// The shape of the upright picture.
Shape upright_shape(const Shape& stored, int orientation);
// Writes the upright picture to `to`.
void turn_upright(const uint8_t* from, const Shape& stored, int orientation, uint8_t* to);

}  // namespace pipecast
