#include "data/exif.h"

#include <algorithm>
#include <utility>

#include "data/decoders.h"

namespace pipecast {

// A TIFF header: II or MM for the order of bytes, 42, the place of the first directory. A directory: how many entries, and each with its
// tag, its type, how many values, and the value.
int exif_orientation(std::string_view exif) {
  const bool low_first = exif.starts_with("II");
  if (!low_first && !exif.starts_with("MM")) return 1;
  const auto number = [&](size_t at, size_t bytes) {
    size_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | byte_of(exif, at + (low_first ? bytes - 1 - i : i));
    return value;
  };
  constexpr size_t tag = 0x0112, short_type = 3, long_type = 4;
  const size_t directory = number(4, 4), entries = number(directory, 2);
  for (size_t at = directory + 2; at < std::min(directory + 2 + 12 * entries, exif.size()); at += 12) {
    if (number(at, 2) != tag) continue;
    const size_t type = number(at + 2, 2), value = type == short_type ? number(at + 8, 2) : type == long_type ? number(at + 8, 4) : 0;
    return value >= 1 && value <= 8 ? int(value) : 1;
  }
  return 1;
}

Shape upright_shape(const Shape& stored, int orientation) {
  return orientation < 5 ? stored : Shape{stored.n, stored.w, stored.h, stored.c};
}

void turn_upright(const uint8_t* from, const Shape& stored, int orientation, uint8_t* to) {
  if (orientation == 1) {
    std::copy_n(from, stored.count(), to);
    return;
  }
  const bool turned = orientation >= 5;
  const bool upside_down = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool mirrored = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const Shape upright = upright_shape(stored, orientation);
  for (int64_t y = 0; y < upright.h; ++y)
    for (int64_t x = 0; x < upright.w; ++x, to += stored.c) {
      int64_t row = turned ? x : y, column = turned ? y : x;  // in the stored picture
      if (upside_down) row = stored.h - 1 - row;
      if (mirrored) column = stored.w - 1 - column;
      std::copy_n(from + (row * stored.w + column) * stored.c, stored.c, to);
    }
}

}  // namespace pipecast
