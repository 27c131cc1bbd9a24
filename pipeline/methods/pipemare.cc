// PipeMare (Yang et al., arXiv 1910.05124): 1F1B without stashing, and three techniques against the staleness tau = D - 1 - k of stage k:
//
//   T1  the learning rate is divided by tau^p, p falling from 1 to 0 over the first mini-batches (Setting::rescale);
//   T2  the backward reads an estimate of the weights that the forward read: the latest less tau times their mean change (optim/history.h);
//   T3  training begins synchronously (Setting::synchronous, which every method understands).
#include <algorithm>
#include <cmath>

#include "pipeline/program.h"

namespace pipecast {

Program pipemare_program(const Setting& setting, int stage) {
  const int tau = setting.stages - 1 - stage;
  Program program = with_weights(one_forward_one_backward(setting, stage), [&](const Reader& reader) {
    return Wanted{.version = reader.live, .back = reader.forward() ? 0 : tau};
  });
  for (Instruction& i : program) {
    if (!is_step(i.operation) || tau == 0 || setting.rescale == 0) continue;
    const double p = 1 - std::min(1.0, double(setting.done + i.minibatch) / double(setting.rescale));
    i.scale = float(std::pow(double(tau), -p));
  }
  return program;
}

}  // namespace pipecast
