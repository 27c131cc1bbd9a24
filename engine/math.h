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

// 1 / (1 + exp(-x)), to 1.3e-7 relative.
HD float sigmoid_(float x) { return 1 / (1 + exp_(-x)); }

// tanh(x), to 1.4e-7 relative. Near 0, where the difference of exponentials would lose digits, by an odd polynomial, a least-squares fit of
// the largest relative error. The choice is made in bits: as a branch it would keep a loop from being vectorized.
HD float tanh_(float x) {
#ifdef __CUDA_ARCH__
  return tanhf(x);
#else
  const float z = x * x, size = fabsf(x);
  float p = -5.704987981e-3f;
  p = p * z + 2.063908819e-2f;
  p = p * z - 5.373971540e-2f;
  p = p * z + 1.333144220e-1f;
  p = p * z - 3.333328194e-1f;
  const int near = std::bit_cast<int>(p * z * x + x), far = std::bit_cast<int>(copysignf(1 - 2 / (exp_(2 * size) + 1), x));
  const int is_near = -int(size < 0.625f);
  return std::bit_cast<float>((near & is_near) | (far & ~is_near));
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
