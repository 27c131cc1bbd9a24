#pragma once
// Pictures as files: PNG and JPEG, decoded by stb_image.
#include <cstdint>
#include <string>
#include <string_view>

#include "data/dataset.h"

namespace pipecast {

constexpr int64_t most_picture_side = 4096;  // pixels

// {1, height, width, 3} as the header of such a file says, with nothing decoded. `name` stands for the file in messages. Throws
// UsageError for what is neither PNG nor JPEG, and for a side above most_picture_side.
Shape picture_shape(std::string_view file, const std::string& name, Orientation = Orientation::ignore);

// Decodes a picture of that shape into `pixels`: height x width x (red, green, blue); grey becomes three equal channels, transparency is
// left out. Returns the orientation in its EXIF data, applied or not (data/exif.h). Throws UsageError where the file is damaged or of
// another shape.
int decode_picture(std::string_view file, const std::string& name, const Shape& shape, uint8_t* pixels, Orientation = Orientation::ignore);

}  // namespace pipecast
