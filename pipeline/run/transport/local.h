#pragma once
// A link between stages of one process: as many places in memory as messages may be under way, taken in advance, and a condition variable.
#include <memory>

#include "pipeline/run/transport/link.h"

namespace pipecast {

// `floats`: the size of the largest message, each of its tensors rounded up to aligned().
std::unique_ptr<Link> local_link(Device, int64_t floats, int capacity);

}  // namespace pipecast
