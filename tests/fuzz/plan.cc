// Files of costs; what is read is simulated where it is small.
#include "pipeline/measure/plan.h"

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pipecast;
  return read_or_refuse([&] {
    const SimulatedRun run = read_plan(as_text(data, size));
    const Setting& s = run.setting;
    if (double(s.stages) * double(s.minibatches) * s.micro_batches * s.chunks > 64) return;
    simulate(make_programs(find_method(run.method), s), run.costs);
  });
}
