#include "optim/moving_average.h"

#include <cmath>

#include "engine/launch.h"
#include "engine/math.h"

namespace pipecast {
namespace {

struct MovingAverage {
  const float* w;
  float* average;
  float share;
  HD void operator()(int64_t i) const { average[i] = fma_(share, w[i] - average[i], average[i]); }
};

}  // namespace

void move_average(Device d, int64_t n, const float* w, float* average, float decay, int64_t t) {
  const double kept = decay;
  map(d, n, MovingAverage{w, average, float((1 - kept) / (1 - std::pow(kept, double(t))))});
}

}  // namespace pipecast
