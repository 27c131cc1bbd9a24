// Spike compensation (Kosson et al., "Pipelined Backpropagation at Scale", MLSys 2021): 1F1B on the latest weights, with an update that
// gives a gradient that is n updates late at once what it would have contributed in the meantime (optim/sgd.cc). With linear
// weight prediction the forwards read predicted weights as well, as in PipeOptim; both need no more than two copies.
#include <map>

#include "pipeline/program.h"

namespace pipecast {

Program pipeoptim_program(const Setting&, int stage);

namespace {

// Every step takes its gradient to be as late as its first micro-batch is.
Program compensated(Program program) {
  const std::vector<int> lags = true_lags(program);
  std::map<int64_t, int> late;  // by mini-batch
  size_t forward = 0;
  for (const Instruction& i : program)
    if (i.operation == Operation::forward) late.insert({i.minibatch, lags[forward++]});
  for (Instruction& i : program)
    if (is_step(i.operation)) i.late = late.at(i.minibatch);
  return program;
}

}  // namespace

Program spike_compensation_program(const Setting& setting, int stage) { return compensated(one_forward_one_backward(setting, stage)); }

Program spike_compensation_prediction_program(const Setting& setting, int stage) { return compensated(pipeoptim_program(setting, stage)); }

}  // namespace pipecast
