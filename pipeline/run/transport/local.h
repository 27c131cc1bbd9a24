#pragma once
// A link between stages of one process: link_capacity places in memory, taken in advance, and a condition variable.
#include <memory>

#include "pipeline/program.h"
#include "pipeline/run/transport/link.h"

namespace pipecast {

// `floats`: the size of the largest message, each of its tensors rounded up to aligned().
std::unique_ptr<Link> local_link(Device, int64_t floats);

}  // namespace pipecast
