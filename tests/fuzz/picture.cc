// Large pictures are left out: they take longer and no other path. Each file is given as it is, and with the checksums of a PNG's chunks
// made right: what is changed in it would be refused for them otherwise.
#include "data/picture.h"

#include <vector>

#include "data/decoders.h"
#include "engine/files/checksum.h"
#include "tests/fuzz/target.h"

namespace {

using namespace pipecast;

void read(std::string_view file) {
  const Shape whole = picture_format(file, "FILE").shape;
  if (whole.h > 128 || whole.w > 128) return;
  for (int64_t least_side : {0, 4}) {
    const Decoding decoding{Orientation::apply, least_side};
    const Shape shape = picture_format(file, "FILE", decoding).shape;
    std::vector<uint8_t> pixels(size_t(shape.count()));
    decode_picture(file, "FILE", shape, pixels.data(), decoding);
  }
  // What decodes a JPEG in builds without libjpeg.
  most_allocated = size_t(16 * whole.h * whole.w) + 2 * file.size() + (1 << 20);
  if (is_jpeg(file)) decode_jpeg(file);
}

std::string with_right_checksums(std::string file) {
  for (size_t at = 8; at + 12 <= file.size();) {
    const size_t length = number_of(file, at, 4);
    if (length > file.size() - at - 12) break;
    const uint32_t checksum = crc32(file.data() + at + 4, 4 + length);
    for (size_t i = 0; i < 4; ++i) file[at + 8 + length + i] = char(checksum >> (24 - 8 * i));
    at += 12 + length;
  }
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file(as_text(data, size));
  read_or_refuse([&] { read(file); });
  if (is_jpeg(file)) return 0;
  return read_or_refuse([&] { read(with_right_checksums(file)); });
}
