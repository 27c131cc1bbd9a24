// The first byte says what becomes of bad samples, the second how many bytes the file of labels has; the rest is that file and the one of
// pictures.
#include <algorithm>

#include "data/pictures.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pipecast;
  if (size < 2) return 0;
  return read_or_refuse([&] {
    Pictures pictures;
    int64_t skipped = 0;
    const size_t labels = std::min<size_t>(data[1], size - 2);
    const Shape shape = append_idx(as_text(data + 2 + labels, size - 2 - labels), "PICTURES", as_text(data + 2, labels), "LABELS",
                                   BadSamples(data[0] & 1), skipped, pictures);
    if (pictures.size() < 1 || pictures.size() * shape.count() != int64_t(pictures.pixels.size())) std::abort();
    if (pictures.size() + skipped + 8 != int64_t(labels)) std::abort();
    for (int32_t label : pictures.labels)
      if (label < 0 || label > 9) std::abort();
  });
}
