#pragma once
// What PipeOptim and spike compensation with weight prediction have in common.
#include "pipeline/program.h"

namespace pipecast {

// 1F1B whose forwards read weights predicted s updates ahead and whose backwards read the latest. The paper's constant s is the lag of
// the steady state, stages - 1 - stage; the published code predicts one update further, on the last stage too; the other modes take
// the lag that the pass really has, which is less while the pipeline fills.
inline Program predicted_forward(const Setting& setting, int stage) {
  const Program plain = one_forward_one_backward(setting, stage);
  const std::vector<int> lags = true_lags(plain);
  size_t forward = 0;
  return with_weights(plain, [&](const Instruction& i, int64_t live) {
    if (i.operation != Operation::forward) return Wanted{live};
    const int lag = lags[forward++];
    int s = lag;
    if (setting.look_ahead == LookAheadMode::paper) s = setting.stages - 1 - stage;
    if (setting.look_ahead == LookAheadMode::released) s = setting.stages - stage;
    return Wanted{live, s > 0, s};
  });
}

}  // namespace pipecast
