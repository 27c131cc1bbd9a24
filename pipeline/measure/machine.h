#pragma once
// What this machine can do at most, measured here and now: what the rates of layers and updates are compared with.
#include <string>

namespace pipecast {

struct MachineRates {
  double flops_per_second = 0;  // multiplications and additions of a product of two matrices, 1024 x 1024 (on a GPU 4096 x 4096)
  double bytes_per_second = 0;  // of a triad (McCalpin's STREAM): two streams read and one written, larger than the caches
};

// With the calling thread's number of threads, the best of several runs each, a second in all; takes 192 MiB meanwhile.
MachineRates measure_machine(const std::string& device);

}  // namespace pipecast
