#pragma once
// A moving average of the weights (Polyak averaging with exponential weights, "EMA"): often a better model than the last weights.
#include "engine/device.h"

namespace pipecast {

// After update t, 1 for the first, with decay d from 0 to 1, over n floats:
//
//   a_t = a_(t-1) + (1 - d) / (1 - d^t) (w_t - a_(t-1))
//
// That is the mean of w_1 ... w_t in which w_i has the weight d^(t-i): the initial weights are not in it, so it may be used from the first
// update on. For large t it is torch.optim.swa_utils' a = d a + (1 - d) w. `average` is read before the first update, too: it must be
// finite.
void move_average(Device, int64_t n, const float* w, float* average, float decay, int64_t t);

}  // namespace pipecast
