// PNG. stb_image checks no checksum, neither the chunks' nor that of the packed data, and would decode a damaged file to other pixels. So
// all are checked here, and it is handed the critical chunks alone, their data unpacked.
#include <algorithm>

#include "data/decoders.h"
#include "data/exif.h"
#include "engine/error.h"
#include "engine/files/checksum.h"

#define STBI_ONLY_PNG
#include "data/stb.h"

namespace pipecast {
namespace {

constexpr size_t signature = 8;  // bytes

struct Chunk {
  std::string_view name, content;
  std::string_view checked;  // both
  size_t checksum;
  bool intact() const { return crc32(checked.data(), checked.size()) == checksum; }
  bool critical() const { return name[0] >= 'A' && name[0] <= 'Z'; }
};

// Calls visit(chunk) for each chunk up to the last one, IEND; returns false where they do not fill the file up to there.
template <class F>
bool each_chunk(std::string_view file, const F& visit) {
  for (size_t at = signature; at + 12 <= file.size();) {  // a chunk: its length, four letters, the contents, a checksum
    const size_t length = number_of(file, at, 4);
    if (length > file.size() - at - 12) return false;
    const std::string_view checked = file.substr(at + 4, 4 + length);
    const Chunk chunk{checked.substr(0, 4), checked.substr(4), checked, number_of(file, at + 8 + length, 4)};
    visit(chunk);
    if (chunk.name == "IEND") return true;
    at += 12 + length;
  }
  return false;
}

void check(const Chunk& chunk, const std::string& name) {
  if (!chunk.intact()) refuse_picture(name, "is damaged: the checksum of its chunk " + shown(chunk.name) + " is wrong");
}

struct Data {
  std::unique_ptr<char, void (*)(void*)> bytes;
  size_t size = 0;
};

// Data that zlib packed; none where they or their checksum are damaged, or they need more memory than there may be.
Data unpacked(std::string_view packed, size_t expected) {
  const auto* begin = reinterpret_cast<const stbi_uc*>(packed.data());
  stbi__zbuf reader{};
  reader.zbuffer = const_cast<stbi_uc*>(begin);
  reader.zbuffer_end = reader.zbuffer + packed.size();
  auto* room = static_cast<char*>(bounded_allocate(expected));
  const bool whole = room && stbi__do_zlib(&reader, room, int(expected), 1, 1);
  Data data{{reader.zout_start ? reader.zout_start : room, std::free}, size_t(reader.zout - reader.zout_start)};
  // Bytes that it holds in `code_buffer` it has taken too many.
  const size_t taken = size_t(reader.zbuffer - begin), held = size_t(std::max(reader.num_bits, 0)) / 8;
  const bool has_checksum = whole && taken >= held && taken - held + 4 <= packed.size();
  if (!has_checksum || adler32(data.bytes.get(), data.size) != number_of(packed, taken - held, 4)) data.bytes.reset();
  return data;
}

void append_number(std::string& file, size_t number) {
  for (int shift = 24; shift >= 0; shift -= 8) file += char(number >> shift & 255);
}

// The decoder checks no checksum: all are left 0.
void append_chunk(std::string& file, std::string_view name, std::string_view content) {
  append_number(file, content.size());
  file.append(name).append(content).append(4, '\0');
}

// The chunk IDAT, as zlib has data that it does not pack: blocks of a byte that says whether it is the last one, the size, its complement.
void append_data(std::string& file, std::string_view data) {
  constexpr size_t most = 0xffff;
  const size_t blocks = std::max<size_t>((data.size() + most - 1) / most, 1), size = 2 + 5 * blocks + data.size() + 4;
  file.reserve(file.size() + size + 64);
  append_number(file, size);
  file += "IDAT\x78\x01";
  for (size_t left = blocks; left > 0; --left) {
    const std::string_view block = data.substr(0, most);
    data.remove_prefix(block.size());
    file += char(left == 1);
    for (const size_t number : {block.size(), ~block.size()}) file += {char(number & 255), char(number >> 8 & 255)};
    file += block;
  }
  file.append(8, '\0');
}

}  // namespace

PictureHeader png_header(std::string_view file, const std::string& name, bool cut) {
  PictureHeader header;
  const bool whole = each_chunk(file, [&](const Chunk& chunk) {
    if (chunk.name == "IHDR") check(chunk, name);
    if (chunk.name == "eXIf" && chunk.intact()) header.orientation = exif_orientation(chunk.content);
  });
  int width = 0, height = 0, channels = 0;
  if (!(whole || cut) ||
      !stbi_info_from_memory(reinterpret_cast<const stbi_uc*>(file.data()), int(file.size()), &width, &height, &channels))
    refuse_picture(name, "is neither a whole PNG nor a whole JPEG");
  header.height = height, header.width = width;
  return header;
}

DecodedPicture decode_png(std::string_view file, const std::string& name, const PictureHeader& header) {
  std::string plain(file.substr(0, signature)), after_data, packed;
  packed.reserve(file.size());
  each_chunk(file, [&](const Chunk& chunk) {
    if (!chunk.critical()) return;
    check(chunk, name);
    if (chunk.name == "CgBI") refuse_picture(name, "is of Apple's own kind of PNG");
    if (chunk.name == "IDAT") packed += chunk.content;
    else append_chunk(packed.empty() ? plain : after_data, chunk.name, chunk.content);
  });
  DecodedPicture decoded{{nullptr, std::free}};
  if (const Data data = unpacked(packed, size_t(header.height * (1 + 3 * header.width))); data.bytes) {
    append_data(plain, {data.bytes.get(), data.size});
    plain += after_data;
    int channels = 0;
    decoded.pixels.reset(stbi_load_from_memory(reinterpret_cast<const stbi_uc*>(plain.data()), int(plain.size()), &decoded.width, &decoded.height,
                                               &channels, 3));
  }
  return decoded;
}

}  // namespace pipecast
