// PipeOptim (Guan et al., arXiv 2312.00839): 1F1B whose forward reads weights predicted `s` updates ahead, so that it sees
// about what its backward will see. The backward reads the latest weights; nothing is stashed, nothing is restored.
#include "pipeline/program.h"

namespace pipecast {
namespace {

// s of one pass. The paper's constant is the lag of the steady state; the published code predicts one update further, on the
// last stage too; the other modes take what the pass really has, which is less while the pipeline fills.
int updates_ahead(const Setting& setting, int stage, int lag) {
  switch (setting.look_ahead) {
    case LookAheadMode::paper: return setting.stages - 1 - stage;
    case LookAheadMode::released: return setting.stages - stage;
    case LookAheadMode::exact:
    case LookAheadMode::decayed: return lag;
  }
  return lag;
}

}  // namespace

Program pipeoptim_program(const Setting& setting, int stage) {
  const Program plain = one_forward_one_backward(setting, stage);
  const std::vector<int> lags = true_lags(plain);

  Program program;
  size_t forward = 0;
  int s = 0;              // of the forward that is coming
  int written = 0;        // s of the predicted copy while it starts from the latest weights, else 0
  size_t after_step = 0;  // the place after the last step, while no predict has joined it; else 0
  for (Instruction i : plain) {
    if (i.operation == Operation::receive_activation) {
      s = updates_ahead(setting, stage, lags[forward++]);
      if (s > 0 && s != written) {
        // One pass over the memory does both where it joins the step; else it is done before the stage waits for its message.
        auto place = after_step ? program.begin() + ptrdiff_t(after_step) : program.end();
        program.insert(place, {.operation = Operation::predict, .minibatch = i.minibatch, .micro = i.micro, .ahead = s});
        written = s;
        after_step = 0;
      }
    } else if (i.operation == Operation::forward && s > 0) {
      i.reads = Reads::predicted;
      i.ahead = s;
    }
    program.push_back(i);
    if (i.operation == Operation::step) {
      written = 0;
      after_step = program.size();
    }
  }
  return program;
}

}  // namespace pipecast
