// What a PNG's checksums keep from the decoder otherwise: any header, palette and rows. The input is 13 bytes of IHDR, one byte for the
// number of colours, the colours, and the rows, which are put into a PNG that is whole.
#include <algorithm>
#include <vector>

#include "data/picture.h"
#include "engine/files/checksum.h"
#include "tests/fuzz/target.h"

namespace {

using namespace pipecast;

std::string big_endian(uint32_t number) { return {char(number >> 24), char(number >> 16), char(number >> 8), char(number)}; }

std::string chunk(const std::string& name, const std::string& content) {
  const std::string checked = name + content;
  return big_endian(uint32_t(content.size())) + checked + big_endian(crc32(checked.data(), checked.size()));
}

// As zlib has data of less than 64 KiB that it does not pack.
std::string unpacked(const std::string& data) {
  std::string zlib = "\x78\x01\x01";
  for (const size_t size : {data.size(), ~data.size()}) zlib += {char(size), char(size >> 8)};
  return zlib + data + big_endian(adler32(data.data(), data.size()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 14 || size > 0xffff) return 0;
  return read_or_refuse([&] {
    const std::string input(as_text(data, size));
    const size_t colours = std::min(size_t(data[13]) * 3, size - 14);
    std::string file = "\x89PNG\r\n\x1a\n" + chunk("IHDR", input.substr(0, 13));
    if (colours > 0) file += chunk("PLTE", input.substr(14, colours));
    file += chunk("IDAT", unpacked(input.substr(14 + colours))) + chunk("IEND", "");
    const Shape shape = picture_format(file, "FILE").shape;
    if (shape.h > 128 || shape.w > 128) return;
    std::vector<uint8_t> pixels(size_t(shape.count()));
    decode_picture(file, "FILE", shape, pixels.data());
  });
}
