// GPipe (Huang et al., NeurIPS 2019): a mini-batch is cut into micro-batches that go forward one behind the other, then back from the
// last to the first; one update with the sum of their gradients. Synchronous: the weights do not change between a forward and its
// backward, and the pipeline drains for every update.
#include "pipeline/program.h"

namespace pipecast {
namespace {

Program one_minibatch(const Setting& setting, int stage) {
  const int last = setting.stages - 1;
  Program program;
  auto add = [&](Operation operation, int micro) { program.push_back({.operation = operation, .micro = micro}); };
  for (int micro = 0; micro < setting.micro_batches; ++micro) {
    add(Operation::receive_activation, micro);
    add(Operation::forward, micro);
    if (stage < last) add(Operation::send_activation, micro);
  }
  for (int micro = setting.micro_batches - 1; micro >= 0; --micro) {
    if (stage < last) add(Operation::receive_gradient, micro);
    add(Operation::backward, micro);
    if (stage > 0) add(Operation::send_gradient, micro);
  }
  add(Operation::step, 0);
  return program;
}

}  // namespace

Program gpipe_program(const Setting& setting, int stage) { return one_by_one(setting, stage, one_minibatch); }

}  // namespace pipecast
