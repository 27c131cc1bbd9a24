#pragma once
// A kernel launch on the simulated CUDA machine: its blocks run in the emulator (tests/emulator) when their turn comes on the stream.
// engine/launch.h includes this when PIPECAST_EMULATOR names it.
#include <atomic>

#include "tests/emulator/emulator.h"
#include "tests/simulated_cuda/machine.h"

namespace simulated_cuda {
inline std::atomic<int64_t> launches = 0;  // of kernels, not counting what the libraries launch and what a graph replays
}

namespace pipecast {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream stream, Arguments... arguments) {
  ++simulated_cuda::launches;
  simulated_cuda::Allocations reached;
  (simulated_cuda::add_reached(reached, &arguments, sizeof arguments), ...);
  check(simulated_cuda::submit(stream, std::move(reached), [=] { emulate(grid, block, [&] { kernel(arguments...); }); }));
}

}  // namespace pipecast
