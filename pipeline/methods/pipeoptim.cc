// PipeOptim (Guan et al., arXiv 2312.00839): 1F1B whose forward reads weights predicted `s` updates ahead, so that it sees
// about what its backward will see. The backward reads the latest weights; nothing is stashed, nothing is restored.
#include "pipeline/methods/predicted_forward.h"

namespace pipecast {

Program pipeoptim_program(const Setting& setting, int stage) { return predicted_forward(setting, stage); }

}  // namespace pipecast
