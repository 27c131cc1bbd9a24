// PipeOptim (Guan et al., arXiv 2312.00839): 1F1B whose forward reads weights predicted s updates ahead, so that it sees
// about what its backward will see. The backward reads the latest weights; nothing is stashed, nothing is restored.
#include "pipeline/program.h"

namespace pipecast {
namespace {

// s. Stage k of D has a lag of D - 1 - k updates once the pipeline is full, and less while it fills.
int distance(const Setting& setting, int stage, int lag) {
  switch (setting.look_ahead) {
    case LookAheadMode::paper: return setting.stages - 1 - stage;
    case LookAheadMode::released: return setting.stages - stage;  // the published code: one more, on the last stage too
    case LookAheadMode::exact:
    case LookAheadMode::decayed: return lag;
  }
  return 0;
}

}  // namespace

Program pipeoptim_program(const Setting& setting, int stage) {
  return with_weights(one_forward_one_backward(setting, stage), [&](const Reader& reader) {
    return Wanted{.version = reader.live, .ahead = reader.forward() ? distance(setting, stage, reader.lag) : 0};
  });
}

}  // namespace pipecast
