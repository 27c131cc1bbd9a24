#include "data/picture.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "engine/error.h"

namespace {

// The most that the decoder may take at once, for the picture that this thread decodes: a file of a few kilobytes may unfold to
// gigabytes otherwise.
thread_local size_t most_allocated = 0;

// Zeroed: a JPEG may name a table of Huffman codes that it never defines, and the decoder then reads the table as it finds it.
void* bounded_allocate(size_t bytes) { return bytes > most_allocated ? nullptr : std::calloc(1, bytes); }
void* bounded_reallocate(void* memory, size_t bytes) { return bytes > most_allocated ? nullptr : std::realloc(memory, bytes); }

}  // namespace

#define STBI_MALLOC(bytes) bounded_allocate(bytes)
#define STBI_REALLOC(memory, bytes) bounded_reallocate(memory, bytes)
#define STBI_FREE(memory) std::free(memory)
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_NO_FAILURE_STRINGS  // one of them is shared by all threads and holds bytes of the file
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

namespace pipecast {
namespace {

constexpr int channels = 3;

bool is_jpeg(std::string_view file) { return file.starts_with("\xff"); }

size_t byte_of(std::string_view file, size_t at) { return at < file.size() ? size_t(static_cast<unsigned char>(file[at])) : 0; }

// Where the markers stand, ascending, that end or interrupt the compressed data of a JPEG's scans; nothing for a file that the decoder must
// not see: one of its segments goes beyond the file, or a table has more Huffman codes than the 256 that the format allows, which stb_image
// before 2.28 writes past the end of its own table. Segments are found as the decoder finds them.
std::optional<std::vector<size_t>> scan_markers(std::string_view file) {
  std::vector<size_t> markers;
  bool in_scan = false;
  for (size_t at = 0; at < file.size();) {
    const size_t start = at;
    if (byte_of(file, at++) != 0xff) continue;
    while (byte_of(file, at) == 0xff) ++at;
    const size_t marker = byte_of(file, at++);
    if (marker == 0) continue;  // a byte 0xff of the data
    if (in_scan) markers.push_back(start);
    if (marker >= 0xd0 && marker <= 0xd8) continue;  // restarts, the file's start: no segments
    if (marker == 0xd9) break;                       // the end
    const size_t length = byte_of(file, at) << 8 | byte_of(file, at + 1);
    if (length < 2 || at + length > file.size()) return {};
    in_scan = marker == 0xda;
    if (marker == 0xc4) {  // tables: a number, how many codes have 1, 2, ... 16 bits, the symbols
      for (size_t table = at + 2; table < at + length;) {
        size_t codes = 0;
        for (size_t bits = 1; bits <= 16; ++bits) codes += byte_of(file, table + bits);
        if (codes > 256) return {};
        table += 17 + codes;
      }
    }
    at += length;
  }
  return markers;
}

// Hands a JPEG to the decoder. Where a scan's data end too early, stb_image before 2.28 takes more bits than it has and shifts by their
// number, below 0. So before a scan's marker, zeros are put in until it holds 16 bits, more than it takes at a time. A scan that is whole
// does not read them: at most 7 bits of it are left when it meets its marker, the decoder then has 23 and still looks for more, up to 24.
struct JpegSource {
  std::string_view file;
  std::vector<size_t> markers;
  const stbi__jpeg* decoder;
  size_t at = 0, next_marker = 0;
  int zeros = 0;  // put in before that marker

  int read(char* to, int most) {
    while (next_marker < markers.size() && markers[next_marker] < at) ++next_marker, zeros = 0;
    size_t end = next_marker < markers.size() ? markers[next_marker] : file.size();
    if (end == at && at < file.size()) {
      if (decoder->code_bits < 16 && zeros < 2) {
        *to = 0, ++zeros;
        return 1;
      }
      end = at + 1;
    }
    const size_t count = std::min(size_t(most), end - at);
    std::copy_n(file.data() + at, count, to);
    at += count;
    return int(count);
  }
  void skip(size_t count) { at += std::min(count, file.size() - at); }
  bool at_end() const { return at == file.size(); }
};

stbi_uc* decode_jpeg(std::string_view file, int* width, int* height, int* own_channels) {
  const auto decoder = std::make_unique<stbi__jpeg>();
  JpegSource source{file, scan_markers(file).value(), decoder.get()};
  stbi_io_callbacks calls{};
  calls.read = [](void* from, char* to, int most) { return static_cast<JpegSource*>(from)->read(to, most); };
  calls.skip = [](void* from, int count) { static_cast<JpegSource*>(from)->skip(size_t(count)); };
  calls.eof = [](void* from) { return int(static_cast<JpegSource*>(from)->at_end()); };
  stbi__context context;
  stbi__start_callbacks(&context, &calls, &source);
  decoder->s = &context;
  stbi__setup_jpeg(decoder.get());
  return load_jpeg_image(decoder.get(), width, height, own_channels, channels);
}

// Whether the chunks of a PNG fill it up to its last one. An empty one where the data begin is refused, too: stb_image copies no bytes to a
// null pointer there.
bool has_whole_chunks(std::string_view file) {
  bool has_data = false;
  for (size_t at = 8; at + 12 <= file.size();) {  // a chunk: its length, four letters, the contents, a checksum
    size_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | byte_of(file, at + i);
    const std::string_view name = file.substr(at + 4, 4);
    if (name == "IEND") return true;
    if (length > file.size() - at - 12 || (name == "IDAT" && length == 0 && !has_data)) return false;
    has_data = has_data || name == "IDAT";
    at += 12 + length;
  }
  return false;
}

[[noreturn]] void refuse(const std::string& name, const std::string& defect) {
  throw UsageError("picture '" + name + "' " + defect +
                   "; mend it, take it out of the folder, or leave such pictures out with --bad-samples skip");
}

}  // namespace

Shape picture_shape(std::string_view file, const std::string& name) {
  // The decoder counts bytes in int; no picture within the bounds takes as many.
  const size_t most = size_t(most_picture_side * most_picture_side * 8);
  if (file.size() > most) refuse(name, "has " + std::to_string(file.size()) + " bytes, more than the " + std::to_string(most) + " allowed");
  if (!(is_jpeg(file) ? scan_markers(file).has_value() : has_whole_chunks(file))) refuse(name, "is neither a whole PNG nor a whole JPEG");
  most_allocated = 1 << 20;
  int width = 0, height = 0, own_channels = 0;
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  if (!stbi_info_from_memory(bytes, int(file.size()), &width, &height, &own_channels))
    refuse(name, "is neither a whole PNG nor a whole JPEG");
  if (width < 1 || height < 1 || width > most_picture_side || height > most_picture_side)
    refuse(name, "says that it is " + std::to_string(width) + " x " + std::to_string(height) + ", and a side has 1 to " +
                     std::to_string(most_picture_side) + " pixels");
  return {1, height, width, channels};
}

void decode_picture(std::string_view file, const std::string& name, const Shape& shape, uint8_t* pixels) {
  const Shape own = picture_shape(file, name);
  if (own != shape)
    refuse(name, "is " + std::to_string(own.w) + " x " + std::to_string(own.h) + " where " + std::to_string(shape.w) + " x " +
                     std::to_string(shape.h) + " is expected");
  // Four channels of two bytes, twice over; the compressed data, whose buffer doubles; tables and blocks that a border cuts.
  most_allocated = size_t(16 * shape.h * shape.w) + 2 * file.size() + (1 << 20);
  int width = 0, height = 0, own_channels = 0;
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  const std::unique_ptr<stbi_uc, void (*)(void*)> decoded(
      is_jpeg(file) ? decode_jpeg(file, &width, &height, &own_channels)
                    : stbi_load_from_memory(bytes, int(file.size()), &width, &height, &own_channels, channels),
      stbi_image_free);
  if (!decoded || width != shape.w || height != shape.h)
    refuse(name, "is damaged or needs more memory than a picture of its size may take");
  std::copy_n(decoded.get(), shape.count(), pixels);
}

}  // namespace pipecast
