// 1F1B with a flush (PipeDream-Flush, Narayanan et al., ICML 2021): the gradient of GPipe in the order of 1F1B, so that a stage holds at
// most as many activations as there are stages from it to the end, however many micro-batches there are.
#include "pipeline/program.h"

namespace pipecast {

Program one_f_one_b_flush_program(const Setting& setting, int stage) { return one_by_one(setting, stage, one_forward_one_backward); }

}  // namespace pipecast
