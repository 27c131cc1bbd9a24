#pragma once
// y += bias, and its gradient: dbias += column sums of dy. Shared by the layers that end with a bias.
#include "engine/launch.h"

namespace pipecast {

struct BiasForward {
  const float* bias;  // cols
  float* y;           // rows x cols
  int64_t cols;
  HD void operator()(int64_t r, int64_t c) const { y[r * cols + c] += bias[c]; }
};

struct BiasBackward {
  const float* dy;  // rows x cols
  float* dbias;     // cols
  int64_t cols;
  HD Sums<1> operator()(int64_t r, int64_t c) const { return {{dy[r * cols + c]}}; }
  HD void done(int64_t c, Sums<1> sums) const { dbias[c] += sums.v[0]; }
};

}  // namespace pipecast
