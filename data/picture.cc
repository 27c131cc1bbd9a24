#include "data/picture.h"

#include <algorithm>

#include "data/decoders.h"
#include "data/exif.h"
#include "engine/error.h"

namespace pipecast {
namespace {

constexpr int channels = 3;

PictureHeader header_of(std::string_view file, const std::string& name, bool cut) {
  // The decoder counts bytes in int; no picture within the bounds takes as many.
  const size_t most = size_t(most_picture_side * most_picture_side * 8);
  if (file.size() > most)
    refuse_picture(name, "has " + std::to_string(file.size()) + " bytes, more than the " + std::to_string(most) + " allowed");
  most_allocated = 1 << 20;
  const PictureHeader header = is_jpeg(file) ? jpeg_header(file, name) : png_header(file, name, cut);
  if (header.width < 1 || header.height < 1 || header.width > most_picture_side || header.height > most_picture_side)
    refuse_picture(name, "says that it is " + std::to_string(header.width) + " x " + std::to_string(header.height) +
                             ", and a side has 1 to " + std::to_string(most_picture_side) + " pixels");
  return header;
}

// By how much the decoder makes the picture smaller.
int divisor_of(std::string_view file, const PictureHeader& header, const Decoding& decoding) {
  int divisor = have_libjpeg && is_jpeg(file) && decoding.least_side > 0 ? 8 : 1;
  while (divisor > 1 && std::min(header.width, header.height) < divisor * decoding.least_side) divisor /= 2;
  return divisor;
}

// As the decoder makes it, not turned.
Shape decoded_shape(const PictureHeader& header, int divisor) {
  return {1, (header.height + divisor - 1) / divisor, (header.width + divisor - 1) / divisor, channels};
}

DecodedPicture jpeg_of(std::string_view file, int divisor) {
  if constexpr (have_libjpeg) return decode_jpeg(file, divisor);
  else return decode_jpeg(file);
}

}  // namespace

void refuse_picture(const std::string& name, const std::string& defect) {
  throw UsageError("picture '" + name + "' " + defect +
                   "; mend it, take it out of the folder, or leave such pictures out with --bad-samples skip");
}

const char* jpeg_decoder() { return have_libjpeg ? "libjpeg" : "stb_image"; }

PictureFormat picture_format(std::string_view file, const std::string& name, const Decoding& decoding, bool cut) {
  const PictureHeader header = header_of(file, name, cut);
  const Shape decoded = decoded_shape(header, divisor_of(file, header, decoding));
  return {upright_shape(decoded, decoding.orientation == Orientation::apply ? header.orientation : 1), header.orientation};
}

void decode_picture(std::string_view file, const std::string& name, const Shape& shape, uint8_t* pixels, const Decoding& decoding) {
  const PictureHeader header = header_of(file, name, false);
  const int turn = decoding.orientation == Orientation::apply ? header.orientation : 1, divisor = divisor_of(file, header, decoding);
  const Shape stored = decoded_shape(header, divisor), own = upright_shape(stored, turn);
  if (own != shape)
    refuse_picture(name, "is " + std::to_string(own.w) + " x " + std::to_string(own.h) + " where " + std::to_string(shape.w) + " x " +
                             std::to_string(shape.h) + " is expected");
  // Four channels of two bytes, twice over; the compressed data, whose buffer doubles; tables and blocks that a border cuts.
  most_allocated = size_t(16 * header.height * header.width) + 2 * file.size() + (1 << 20);
  const DecodedPicture decoded = is_jpeg(file) ? jpeg_of(file, divisor) : decode_png(file, name, header);
  if (!decoded.pixels || decoded.width != stored.w || decoded.height != stored.h)
    refuse_picture(name, "is damaged or needs more memory than a picture of its size may take");
  turn_upright(decoded.pixels.get(), stored, turn, pixels);
}

}  // namespace pipecast
