#pragma once
// Pictures as files: PNG, decoded by stb_image, and JPEG, decoded by libjpeg where the build has it and by stb_image where not.
#include <cstdint>
#include <string>
#include <string_view>

#include "data/dataset.h"

namespace pipecast {

constexpr int64_t most_picture_side = 4096;  // pixels

// How pictures are decoded.
struct Decoding {
  Orientation orientation = Orientation::ignore;
  // libjpeg makes a JPEG 2, 4 or 8 times smaller as it decodes it, as long as no side becomes smaller than this; 0: never.
  int64_t least_side = 0;
};

struct PictureFormat {
  Shape shape;      // {1, height, width, 3}, as decode_picture makes it
  int orientation;  // in its EXIF data, applied or not (data/exif.h)
};
// What the header of such a file says, with nothing decoded. `name` stands for the file in messages. cut: only the beginning of the file is
// given. Throws UsageError for what is neither PNG nor JPEG, for a side above most_picture_side, and where the header is cut off.
PictureFormat picture_format(std::string_view file, const std::string& name, const Decoding& = {}, bool cut = false);

// Decodes a picture of that shape into `pixels`: height x width x (red, green, blue); grey becomes three equal channels, transparency is
// left out, the upper 8 of 16 bits are taken. Throws UsageError where the file is damaged or of another shape.
void decode_picture(std::string_view file, const std::string& name, const Shape& shape, uint8_t* pixels, const Decoding& = {});

// What decodes JPEG in this build: its pixels depend on it.
const char* jpeg_decoder();

}  // namespace pipecast
