#pragma once
// A block of CUDA threads on the host, so that the device code of kernels runs and is checked where there is no GPU.
// engine/launch.h includes this in place of CUDA's own definitions when PIPECAST_EMULATOR names it.
//
// Blocks run one after another. The threads of a block are fibers that run one at a time and are switched only where CUDA
// threads meet: at a barrier or a shuffle. So faults are found that real hardware may hide:
//   - a barrier that some threads of the block never reach, or that they reach in different places;
//   - a shuffle, or a multiplication by tensor cores, that not all 32 lanes of a warp join;
//   - a launch that exceeds CUDA's limits.
// Each throws Error. Blocks whose coordinates add up to an odd number run their threads from last to first: a forgotten
// barrier changes the result in one of the two orders. Shared memory keeps what the block before left there.
//
// Every host thread has an emulator of its own: the streams of the simulated CUDA machine (tests/simulated_cuda) run side by side.
#include <functional>
#include <source_location>
#include <vector>

#include "engine/device.h"

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static thread_local  // a host thread runs one block at a time

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the thread that runs now

void __syncthreads(std::source_location where = std::source_location::current());
float __shfl_xor_sync(unsigned lanes, float value, int lane_mask, std::source_location where = std::source_location::current());

namespace pipecast {

// What tensor cores compute: see engine/tensor_core.h.
void emulated_multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           std::source_location where = std::source_location::current());

void emulate(dim3 grid, dim3 block, const std::function<void()>& thread);

#ifndef PIPECAST_CUDA  // with it, tests/simulated_cuda/launch.h puts launches on a stream
// Where it is set, launches of the calling thread are added to it and not run: a stream that is being captured.
inline thread_local std::vector<std::function<void()>>* captured = nullptr;

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream, Arguments... arguments) {
  const auto run = [=] { emulate(grid, block, [&] { kernel(arguments...); }); };
  if (captured) captured->push_back(run);
  else run();
}
#endif

}  // namespace pipecast
