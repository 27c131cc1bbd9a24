#pragma once
// Sums over a flat buffer: the length of a gradient, for clipping by norm (clip = min(1, most / norm) goes to Update::gradient_scale), and
// whether all of its elements are finite.
#include "engine/device.h"

namespace pipecast {

constexpr int64_t square_sum_floats = 80;

// sums[0] = x_1^2 + ... + x_n^2, added in an order that depends on n alone. `sums`: square_sum_floats floats on the device,
// of which the others are workspace. Returns before it is done on a GPU.
void square_sum(Device, int64_t n, const float* x, float* sums);

// sums[0] += (x_1 - x_1) + ... + (x_n - x_n): a sum of 0 stays 0 where all of x is finite, and becomes NaN where an element is an infinity
// or a NaN. Otherwise as square_sum().
void add_differences(Device, int64_t n, const float* x, float* sums);
void add_differences(Device, int64_t n, const Bfloat16* x, float* sums);

// Waits for the device and returns sums[0]. The norm of a model in parts is the root of the sum of these over its parts.
double read_sum(Device, const float* sums);

}  // namespace pipecast
