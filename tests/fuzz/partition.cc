// The first two bytes are the numbers of parts and of stages; the rest is the list that --partition takes.
#include "pipeline/plan/partition.h"

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  return read_or_refuse([&] {
    const int parts = data[0], stages = data[1] % 16;
    int sum = 0;
    for (int count : pipecast::parse_partition(std::string(as_text(data + 2, size - 2)), parts, stages)) sum += count;
    if (sum != parts) std::abort();
  });
}
