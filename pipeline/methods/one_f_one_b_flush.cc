// 1F1B with a flush (PipeDream-Flush, Narayanan et al., ICML 2021): the gradient of GPipe in the order of 1F1B, so that a stage holds at
// most as many activations as there are stages from it to the end, however many micro-batches there are.
#include "pipeline/program.h"

namespace pipecast {

Program one_f_one_b_flush_program(const Setting& setting, int stage) {
  Setting one = setting;
  one.minibatches = 1;
  const Program of_one = one_forward_one_backward(one, stage);
  Program program;
  for (int64_t minibatch = 0; minibatch < setting.minibatches; ++minibatch)
    for (Instruction i : of_one) {
      i.minibatch = minibatch;
      program.push_back(i);
    }
  return program;
}

}  // namespace pipecast
