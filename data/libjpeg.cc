// JPEG by libjpeg, or libjpeg-turbo: Pillow's pixels, a quarter faster than stb_image, and at a part of the size where that is enough.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// clang-format off: these need <cstdio>, and the second one the first.
#include <jerror.h>
#include <jpeglib.h>
// clang-format on

#include "data/decoders.h"

namespace pipecast {
namespace {

struct Work {
  jpeg_decompress_struct decoder{};
  jpeg_error_mgr errors{};
  std::jmp_buf end;
  DecodedPicture decoded{{nullptr, std::free}};
};

void give_up(j_common_ptr decoder) { std::longjmp(static_cast<Work*>(decoder->client_data)->end, 1); }

// Warnings are of damaged data, which libjpeg fills up with grey; but for these, of which many whole pictures have one.
void warn(j_common_ptr decoder, int level) {
  const int warning = decoder->err->msg_code;
  if (level < 0 && warning != JWRN_EXTRANEOUS_DATA && warning != JWRN_ADOBE_XFORM && warning != JWRN_JFIF_MAJOR) give_up(decoder);
}

// The ink that remains, 255 for none: cyan, magenta, yellow and black over each other.
void mix_inks(const uint8_t* inks, size_t pixels, uint8_t* colours) {
  for (size_t i = 0; i < pixels; ++i, inks += 4, colours += 3)
    for (int c = 0; c < 3; ++c) {
      const unsigned product = (255u - inks[c]) * inks[3] + 128;
      colours[c] = uint8_t(inks[3] - ((product + (product >> 8)) >> 8));
    }
}

// Returns false where libjpeg gave up, which jumps here: nothing in this function has a destructor.
bool decode(Work& work, std::string_view file, int divisor) {
  jpeg_decompress_struct& decoder = work.decoder;
  if (setjmp(work.end)) return false;
  jpeg_create_decompress(&decoder);
  decoder.mem->max_memory_to_use = long(most_allocated);
  jpeg_mem_src(&decoder, reinterpret_cast<const unsigned char*>(file.data()), static_cast<unsigned long>(file.size()));
  jpeg_read_header(&decoder, TRUE);
  const bool inks = decoder.num_components == 4;
  decoder.out_color_space = inks ? JCS_CMYK : JCS_RGB;
  decoder.scale_num = 1, decoder.scale_denom = unsigned(divisor);
  jpeg_start_decompress(&decoder);
  const size_t width = decoder.output_width, height = decoder.output_height;
  if (3 * width * height > most_allocated) return false;
  work.decoded.pixels.reset(static_cast<uint8_t*>(std::malloc(3 * width * height)));
  if (!work.decoded.pixels) return false;
  JSAMPARRAY row_of_inks = nullptr;
  if (inks) row_of_inks = decoder.mem->alloc_sarray(reinterpret_cast<j_common_ptr>(&decoder), JPOOL_IMAGE, JDIMENSION(4 * width), 1);
  while (decoder.output_scanline < height) {
    uint8_t* row = work.decoded.pixels.get() + 3 * width * decoder.output_scanline;
    jpeg_read_scanlines(&decoder, inks ? row_of_inks : &row, 1);
    if (inks) mix_inks(*row_of_inks, width, row);
  }
  jpeg_finish_decompress(&decoder);
  work.decoded.width = int(width), work.decoded.height = int(height);
  return true;
}

}  // namespace

DecodedPicture decode_jpeg(std::string_view file, int divisor) {
  const auto work = std::make_unique<Work>();
  work->decoder.err = jpeg_std_error(&work->errors);
  work->decoder.client_data = work.get();
  work->errors.error_exit = give_up;
  work->errors.emit_message = warn;
  if (!decode(*work, file, divisor)) work->decoded.pixels.reset();
  jpeg_destroy_decompress(&work->decoder);
  return std::move(work->decoded);
}

}  // namespace pipecast
