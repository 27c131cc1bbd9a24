#pragma once
// Elementary functions for kernels: libm's are calls, which keep a host loop scalar; these vectorize.
#include <bit>

#include "engine/launch.h"

namespace pipecast {

// exp(x) to 1.2e-7 relative for x in [-87, 88], clamped outside. Rounds by adding 1.5 * 2^23: never compile with -ffast-math.
HD float exp_(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  x = x < -87.f ? -87.f : x > 88.f ? 88.f : x;
  float t = x * 1.44269504f + 12582912.f;
  int n = std::bit_cast<int>(t);
  float k = t - 12582912.f;
  float r = x - k * 0.693359375f + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  return p * std::bit_cast<float>((n << 23) + 0x3f800000);
#endif
}

// tanh(x) to 1.2e-7 of the larger of |tanh(x)| and 2^-1.
HD float tanh_(float x) {
#ifdef __CUDA_ARCH__
  return tanhf(x);
#else
  const float t = exp_(-2 * (x < 0 ? -x : x)), y = (1 - t) / (1 + t);
  return x < 0 ? -y : y;
#endif
}

// a * b + c, rounded once wherever the processor can (libm's fmaf is a slow call where it cannot). A compiler fuses "a * b + c"
// as it likes, so two places that must agree to the last bit write it this way.
HD float fma_(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FP_FAST_FMAF)
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace pipecast
