// The first byte says what becomes of bad samples and which labels are read; the rest is the file.
#include "data/pictures.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pipecast;
  if (size == 0) return 0;
  return read_or_refuse([&] {
    Pictures pictures;
    const bool coarse = data[0] & 2;
    const int64_t skipped = append_cifar(as_text(data + 1, size - 1), "FILE", coarse ? Cifar::hundred_coarse : Cifar::hundred,
                                         BadSamples(data[0] & 1), pictures);
    if ((pictures.size() + skipped) * 3074 + 1 != int64_t(size) || pictures.size() * 3072 != int64_t(pictures.pixels.size())) std::abort();
    for (int32_t label : pictures.labels)
      if (label < 0 || label > (coarse ? 19 : 99)) std::abort();
  });
}
