// GPipe (Huang et al., NeurIPS 2019): a mini-batch is cut into micro-batches that go forward one behind the other, then back; one
// update with the sum of their gradients. Synchronous: the weights do not change between a forward and its backward, and
// the pipeline drains for every update.
#include "pipeline/program.h"

namespace pipecast {

Program gpipe_program(const Setting& setting, int stage) { return forward_then_backward(setting, stage); }

}  // namespace pipecast
