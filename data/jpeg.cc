// JPEG. What the components of a picture are is decided as libjpeg does, and segments are checked before the decoder sees them.
#include <algorithm>
#include <optional>
#include <vector>

#include "data/decoders.h"
#include "data/exif.h"

// Doubles the width of a row of colours. stb_image's own function (2.27 and, as it seems, all others) weighs the last two samples the wrong
// way round. The macro, which takes arguments, gives that one's definition another name; where stb_image uses it, it finds this one.
static unsigned char* stbi__resample_row_h_2(unsigned char* out, unsigned char* row, unsigned char* other, int width, int factor);
#define stbi__resample_row_h_2(out, row, other, width, factor) stb_resample_row_h_2(out, row, other, width, factor)
#define STBI_ONLY_JPEG
#include "data/stb.h"
#undef stbi__resample_row_h_2

static unsigned char* stbi__resample_row_h_2(unsigned char* out, unsigned char* row, unsigned char* other, int width, int factor) {
  stb_resample_row_h_2(out, row, other, width, factor);
  if (width > 1) out[2 * width - 2] = static_cast<unsigned char>((3 * row[width - 1] + row[width - 2] + 2) / 4);
  return out;
}

namespace pipecast {
namespace {

struct Segments {
  std::vector<size_t> scan_markers;  // where those stand, ascending, that end or interrupt the compressed data of scans
  size_t first_scan = 0;             // its marker
  std::string components;            // their letters
  bool jfif = false;                 // it says to be a JFIF file
  int adobe = -1;                    // the colour transform that an Adobe segment names
  std::string_view exif;
  const char* kind = nullptr;  // of the frame, where it is one that the decoder does not know
};

// Of the frames other than baseline, extended and progressive; nothing for what is no frame.
const char* rare_kind(size_t marker) {
  if (marker < 0xc3 || marker > 0xcf || marker == 0xc4 || marker == 0xc8 || marker == 0xcc) return nullptr;
  if (marker > 0xc8) return "arithmetic coding";
  return marker == 0xc3 ? "lossless coding" : "hierarchical coding";
}

// What the segments before the first scan say. The conditions on their lengths are libjpeg's.
void note(size_t marker, std::string_view content, Segments& segments) {
  if (!segments.kind) segments.kind = rare_kind(marker);
  if (marker >= 0xc0 && marker <= 0xc2) {  // a frame: bits, height, width, and per component a letter and two bytes
    if (byte_of(content, 0) == 12) segments.kind = "12 bits a sample";
    segments.components.clear();
    for (size_t k = 0; k < byte_of(content, 5); ++k) segments.components += char(byte_of(content, 6 + 3 * k));
  }
  if (marker == 0xe0 && content.size() >= 14 && content.starts_with(std::string_view("JFIF\0", 5))) segments.jfif = true;
  if (marker == 0xee && content.size() >= 12 && content.starts_with("Adobe")) segments.adobe = int(byte_of(content, 11));
  if (marker == 0xe1 && content.starts_with(std::string_view("Exif\0\0", 6)) && segments.exif.empty()) segments.exif = content.substr(6);
}

// Whether a segment with tables of Huffman codes has no table of more than the 256 codes that the format allows, which stb_image before
// 2.28 writes past the end of its own table. It takes the numbers of codes from behind the segment where that ends too early.
bool has_few_codes(std::string_view file, size_t begin, size_t end) {
  for (size_t table = begin; table < end;) {  // a number, how many codes have 1, 2, ... 16 bits, the symbols
    size_t codes = 0;
    for (size_t bits = 1; bits <= 16; ++bits) codes += byte_of(file, table + bits);
    if (codes > 256) return false;
    table += 17 + codes;
  }
  return true;
}

// The segments as the decoder finds them; nothing for a file that it must not see: one of its segments goes beyond the file or has too many
// codes. header: only those up to the first scan.
std::optional<Segments> segments_of(std::string_view file, bool header = false) {
  Segments segments;
  bool in_scan = false;
  for (size_t at = 0; at < file.size();) {
    const size_t start = at;
    if (byte_of(file, at++) != 0xff) continue;
    while (byte_of(file, at) == 0xff) ++at;
    const size_t marker = byte_of(file, at++);
    if (marker == 0) continue;  // a byte 0xff of the data
    if (in_scan) segments.scan_markers.push_back(start);
    if (marker >= 0xd0 && marker <= 0xd8) continue;  // restarts, the file's start: no segments
    if (marker == 0xd9) break;                       // the end
    const size_t length = number_of(file, at, 2);
    if (length < 2 || at + length > file.size()) return {};
    const std::string_view content = file.substr(at + 2, length - 2);
    in_scan = marker == 0xda;
    if (in_scan && segments.first_scan == 0) segments.first_scan = start;
    if (segments.first_scan == 0) note(marker, content, segments);
    if (marker == 0xc4 && !has_few_codes(file, at + 2, at + length)) return {};
    if (in_scan && header) return segments;
    at += length;
  }
  return segments;
}

// The file with an Adobe segment before its first scan. Four components are ink, CMYK, or with YCCK in place of CMY; without an Adobe
// segment they are CMYK, and with one, YCCK unless it says otherwise. The decoder knows this only of files whose segment says so.
std::string with_ink_named(std::string_view file, const Segments& segments) {
  std::string named(file);
  return named.insert(segments.first_scan, std::string("\xff\xee\0\x0e" "Adobe\0\x64\0\0\0\0", 15) + char(segments.adobe > 0 ? 2 : 0));
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

}  // namespace

PictureHeader jpeg_header(std::string_view file, const std::string& name) {
  const std::optional<Segments> segments = segments_of(file, true);
  if (segments && segments->kind)
    refuse_picture(name, std::string("is a JPEG with ") + segments->kind + ", a kind that pipecast does not read");
  int width = 0, height = 0, channels = 0;
  if (!segments || !stbi_info_from_memory(reinterpret_cast<const stbi_uc*>(file.data()), int(file.size()), &width, &height, &channels))
    refuse_picture(name, "is neither a whole PNG nor a whole JPEG");
  // libjpeg believes the segments, the decoder the letters.
  if (segments->components == "RGB" && (segments->jfif || segments->adobe > 0))
    refuse_picture(name, "says both that its colours are RGB and that they are YCbCr");
  return {height, width, exif_orientation(segments->exif)};
}

DecodedPicture decode_jpeg(std::string_view file) {
  std::string named;
  std::optional<Segments> segments = segments_of(file);
  if (!segments) return {{nullptr, std::free}};
  if (segments->components.size() == 4) {
    named = with_ink_named(file, *segments);
    file = named, segments = segments_of(file);
  }
  const auto decoder = std::make_unique<stbi__jpeg>();
  JpegSource source{file, std::move(segments->scan_markers), decoder.get()};
  stbi_io_callbacks calls{};
  calls.read = [](void* from, char* to, int most) { return static_cast<JpegSource*>(from)->read(to, most); };
  calls.skip = [](void* from, int count) { static_cast<JpegSource*>(from)->skip(size_t(count)); };
  calls.eof = [](void* from) { return int(static_cast<JpegSource*>(from)->at_end()); };
  stbi__context context;
  stbi__start_callbacks(&context, &calls, &source);
  decoder->s = &context;
  stbi__setup_jpeg(decoder.get());
  DecodedPicture decoded{{nullptr, std::free}};
  int channels = 0;
  decoded.pixels.reset(load_jpeg_image(decoder.get(), &decoded.width, &decoded.height, &channels, 3));
  return decoded;
}

}  // namespace pipecast
