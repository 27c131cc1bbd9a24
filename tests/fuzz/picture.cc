// Large pictures are left out: they take longer and no other path.
#include "data/picture.h"

#include <vector>

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pipecast;
  return read_or_refuse([&] {
    const std::string_view file = as_text(data, size);
    const Shape shape = picture_shape(file, "FILE");
    if (shape.h > 128 || shape.w > 128) return;
    std::vector<uint8_t> pixels(size_t(shape.count()));
    decode_picture(file, "FILE", shape, pixels.data());
  });
}
