#pragma once
// The discrepancy correction of PipeMare (Yang et al., MLSys 2021, arXiv 1910.05124): it estimates the weights that a forward read from the
// latest weights, instead of keeping a copy of them.
#include "engine/device.h"

namespace pipecast {

// After every update: `average` is updated, `corrected` is assigned the estimate of the weights of tau >= 0 updates ago. Buffers
// of n floats; before the first update `average` holds the initial weights.
//
//   PipeMare   d = g d + (1 - g) (w - w_before), d = 0 at first;   corrected = w - tau d;   g = 0.135^(1 / tau)
//   here       a = g a + (1 - g) w, a = w at first;                corrected = w - tau (1 - g) / g (w - a)
//
// The two are one, as d = (1 - g) / g (w - a) at all times. At first both are 0. And if it holds before an update from w to w':
//   (1 - g) / g (w' - a') = (1 - g) / g (w' - g a - (1 - g) w') = (1 - g) (w' - a) = (1 - g) (w - a) + (1 - g) (w' - w)
//                         = g d + (1 - g) (w' - w) = d'
// An average of the weights is all there is to keep: no copy of the weights before the update is needed.
void look_back(Device, int64_t n, const float* w, float* average, float* corrected, int tau);

}  // namespace pipecast
