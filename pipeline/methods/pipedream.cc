// PipeDream (Narayanan et al., SOSP 2019): 1F1B with weight stashing. The backward of a mini-batch reads the very weights that its
// forward read on this stage, so a stage keeps every version that a mini-batch under way has read: D - k of them on stage k
// of D, the latest among them. The stash is empty whenever the pipeline refills.
#include "pipeline/program.h"

namespace pipecast {

Program pipedream_program(const Setting& setting, int stage) {
  return with_versions(one_forward_one_backward(setting, stage), [](int64_t, int64_t live) { return live; });
}

}  // namespace pipecast
