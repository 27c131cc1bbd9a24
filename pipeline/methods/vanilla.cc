// Asynchronous 1F1B without any correction: forward and backward read the latest weights, so a pass whose forward read
// version v is backed with the version that is `lag` updates newer. The baseline that prediction sets out to mend.
#include "pipeline/program.h"

namespace pipecast {

Program vanilla_program(const Setting& setting, int stage) { return one_forward_one_backward(setting, stage); }

}  // namespace pipecast
