#include "optim/history.h"

#include <cmath>

#include "engine/math.h"

namespace pipecast {
namespace {

struct LookBack {
  const float* w;
  float *average, *corrected;
  float share, distance;  // 1 - g; tau (1 - g) / g
  HD void operator()(int64_t i) const {
    float mean = fma_(share, w[i] - average[i], average[i]);
    average[i] = mean;
    corrected[i] = fma_(-distance, w[i] - mean, w[i]);
  }
};

}  // namespace

void look_back(Device d, int64_t n, const float* w, float* average, float* corrected, int tau) {
  const double kept = tau > 0 ? std::pow(0.135, 1.0 / tau) : 1;  // nothing to look back to: corrected is w
  const double share = tau > 0 ? 1 - kept : 1;
  map(d, n, LookBack{w, average, corrected, float(share), float(tau * share / kept)});
}

}  // namespace pipecast
