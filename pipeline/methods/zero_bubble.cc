// ZB-H1 (Qi et al., "Zero bubble pipeline parallelism", ICLR 2024): 1F1B with a flush, its backward cut in two. The gradient of
// the input goes on to the stage before as soon as it can; the gradient of the weights, for which no stage waits, comes k passes
// later on stage k and so fills the time in which the pipeline drains. With at least as many micro-batches as stages, and the three
// kinds of pass equally long, a mini-batch takes 3 M + D - 1 of them, where 1F1B takes 3 (M + D - 1); no stage holds more than D.
#include <algorithm>

#include "pipeline/program.h"

namespace pipecast {
namespace {

Program one_minibatch(const Setting& setting, int stage) {
  const int last = setting.stages - 1, passes = setting.micro_batches, warm_up = std::min(last - stage, passes);
  Program program;
  auto add = [&](Operation operation, int micro) { program.push_back({.operation = operation, .micro = micro}); };
  auto forward = [&](int micro) {
    add(Operation::receive_activation, micro);
    add(Operation::forward, micro);
    if (stage < last) add(Operation::send_activation, micro);
  };
  for (int micro = 0; micro < warm_up; ++micro) forward(micro);
  for (int micro = 0; micro < passes + stage; ++micro) {
    if (warm_up + micro < passes) forward(warm_up + micro);
    if (micro < passes) {
      if (stage < last) add(Operation::receive_gradient, micro);
      add(Operation::backward_input, micro);
      if (stage > 0) add(Operation::send_gradient, micro);
    }
    if (micro >= stage) add(Operation::backward_weight, micro - stage);
  }
  add(Operation::step, passes - 1);
  return program;
}

}  // namespace

Program zero_bubble_program(const Setting& setting, int stage) { return one_by_one(setting, stage, one_minibatch); }

}  // namespace pipecast
