#pragma once
// A link between stages of one process: a few places in memory, taken in advance, and a condition variable.
#include <memory>

#include "pipeline/transport/link.h"

namespace pipecast {

constexpr int link_capacity = 2;  // messages under way; audit() looks for deadlocks with as many

// `floats`: the size of the largest message, each of its tensors rounded up to aligned().
std::unique_ptr<Link> local_link(Device, int64_t floats);

}  // namespace pipecast
