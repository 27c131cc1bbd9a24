#pragma once
// The transport between stages that are threads of one process.
#include <memory>

#include "pipeline/run/transport/transport.h"

namespace pipecast {

std::unique_ptr<Transport> threads_transport();

}  // namespace pipecast
