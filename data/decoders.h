#pragma once
// The decoders of single formats, for data/picture.cc. All throw UsageError by refuse_picture.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace pipecast {

// Throws the sentence "picture 'name' defect; ...".
[[noreturn]] void refuse_picture(const std::string& name, const std::string& defect);

// What a file says of itself, its pixels not decoded.
struct PictureHeader {
  int64_t height = 0, width = 0;  // as stored
  int orientation = 1;            // by its EXIF data, see data/exif.h
};

// As stored: height x width x (red, green, blue).
struct DecodedPicture {
  std::unique_ptr<uint8_t, void (*)(void*)> pixels;  // none where the decoder gave up
  int height = 0, width = 0;
};

// Whether it begins as one.
inline bool is_jpeg(std::string_view file) { return file.starts_with("\xff"); }

// The most memory that a decoder may take at once, for the picture that this thread decodes: a file of a few kilobytes may unfold to
// gigabytes otherwise. To be set before each call.
inline thread_local size_t most_allocated = 0;

// cut: only the beginning of the file is given. Where that ends within the header, it is refused.
PictureHeader png_header(std::string_view file, const std::string& name, bool cut);
PictureHeader jpeg_header(std::string_view file, const std::string& name);
DecodedPicture decode_png(std::string_view file, const std::string& name, const PictureHeader&);
DecodedPicture decode_jpeg(std::string_view file);  // by stb_image

#ifdef PIPECAST_LIBJPEG
constexpr bool have_libjpeg = true;
#else
constexpr bool have_libjpeg = false;
#endif
// By libjpeg, each side divided by 1, 2, 4 or 8 and rounded up. Not in builds without it.
DecodedPicture decode_jpeg(std::string_view file, int divisor);

// Byte `at`; 0 beyond the end.
inline size_t byte_of(std::string_view file, size_t at) { return at < file.size() ? size_t(static_cast<unsigned char>(file[at])) : 0; }
// A number of this many bytes, the highest first.
inline size_t number_of(std::string_view file, size_t at, size_t bytes) {
  size_t number = 0;
  for (size_t i = 0; i < bytes; ++i) number = number << 8 | byte_of(file, at + i);
  return number;
}

}  // namespace pipecast
