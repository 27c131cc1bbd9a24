#pragma once
// The length of a gradient, for clipping by norm: clip = min(1, most / norm) goes to Update::gradient_scale.
#include "engine/device.h"

namespace pipecast {

constexpr int64_t square_sum_floats = 80;

// sums[0] = x_1^2 + ... + x_n^2, added in an order that depends on n alone. `sums`: square_sum_floats floats on the device,
// of which the others are workspace. Returns before it is done on a GPU.
void square_sum(Device, int64_t n, const float* x, float* sums);

// Waits for the device and returns sums[0]. The norm of a model in parts is the root of the sum of these over its parts.
double read_square_sum(Device, const float* sums);

}  // namespace pipecast
