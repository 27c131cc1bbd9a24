// A file of columns that may hold anything: what is taken has samples whose every value can be read.
#include "data/columns.h"

#include <cstdlib>

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pipecast;
  return read_or_refuse([&] {
    const ColumnFile file = column_file({data, size}, nullptr, "COLUMNS");
    const Samples& samples = *file.samples;
    for (int32_t i = 0; i < samples.size() && i < 100; ++i) {
      const int64_t length = samples.length(i);
      if (length > 4096) continue;
      std::vector<int32_t> row(size_t(std::max<int64_t>(length, 1)));
      for (size_t c = 0; c < samples.columns().size(); ++c)
        samples.read(c, &i, 1, {.length = int64_t(row.size()), .augmentation = {}}, row.data());
    }
  });
}
