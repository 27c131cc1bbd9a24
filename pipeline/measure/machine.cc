#include "pipeline/measure/machine.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "engine/gemm.h"
#include "engine/launch.h"
#include "engine/memory.h"

namespace pipecast {
namespace {

constexpr int least_runs = 10;
constexpr double least_time = 0.5;  // seconds of all runs: another process may take the processor from some of them

struct Fill {
  float* x;
  float value;
  HD void operator()(int64_t i) const { x[i] = value; }
};

struct Triad {
  const float *a, *b;
  float* c;
  float scale;
  HD void operator()(int64_t i) const { c[i] = a[i] + scale * b[i]; }
};

template <class F>
double least_seconds(Device device, const F& f) {
  using Clock = std::chrono::steady_clock;
  double least = std::numeric_limits<double>::infinity();
  const auto begin = Clock::now();
  for (int run = 0; run < least_runs || std::chrono::duration<double>(Clock::now() - begin).count() < least_time; ++run) {
    const auto start = Clock::now();
    f();
    synchronize(device);
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return least;
}

}  // namespace

MachineRates measure_machine(const std::string& device) {
  const DeviceOwner owner(device);
  const Device d = owner.get();
  constexpr int64_t floats = 16 << 20;       // 64 MiB a stream
  const int64_t side = d.gpu ? 4096 : 1024;  // of the matrices
  const Memory a(d, floats), b(d, floats), c(d, floats);
  map(d, floats, Fill{a.data(), 0.5f}), map(d, floats, Fill{b.data(), 0.25f});
  const double product = least_seconds(d, [&] { gemm(d, false, false, side, side, side, a.data(), b.data(), 0, c.data()); });
  const double triad = least_seconds(d, [&] { map(d, floats, Triad{a.data(), b.data(), c.data(), 3.f}); });
  return {2.0 * double(side * side * side) / product, 3.0 * floats * sizeof(float) / triad};
}

}  // namespace pipecast
