// Naive model parallelism: one pass at a time goes forward through all stages and back; while one stage computes, the others
// wait. The baseline of every pipeline.
#include "pipeline/program.h"

namespace pipecast {
namespace {

Program one_minibatch(const Setting& setting, int stage) {
  const int last = setting.stages - 1;
  Program program;
  for (int micro = 0; micro < setting.micro_batches; ++micro) {
    auto add = [&](Operation operation) { program.push_back({.operation = operation, .micro = micro}); };
    add(Operation::receive_activation);
    add(Operation::forward);
    if (stage < last) add(Operation::send_activation), add(Operation::receive_gradient);
    add(Operation::backward);
    if (stage > 0) add(Operation::send_gradient);
  }
  program.push_back({.operation = Operation::step, .micro = setting.micro_batches - 1});
  return program;
}

}  // namespace

Program model_parallel_program(const Setting& setting, int stage) { return one_by_one(setting, stage, one_minibatch); }

}  // namespace pipecast
