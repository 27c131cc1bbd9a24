#pragma once
// Counter-based random numbers: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A number is a pure function of (seed, purpose, step, element): no state, the same on every device and in any order.
#include <cmath>
#include <cstdint>
#include <string_view>

#include "engine/launch.h"

namespace pipecast {

// What a random number is for, so that no two uses share a stream. Names hash to the same value everywhere (FNV-1a).
constexpr uint32_t purpose(std::string_view name) {
  uint32_t hash = 2166136261u;
  for (char c : name) hash = (hash ^ uint8_t(c)) * 16777619u;
  return hash;
}

struct Philox {
  uint32_t key[2];

  // Four independent 32-bit words for one counter.
  HD void operator()(uint32_t (&counter)[4]) const {
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
      uint64_t a = uint64_t(0xD2511F53u) * counter[0], b = uint64_t(0xCD9E8D57u) * counter[2];
      uint32_t c0 = uint32_t(b >> 32) ^ counter[1] ^ k0, c2 = uint32_t(a >> 32) ^ counter[3] ^ k1;
      counter[0] = c0, counter[1] = uint32_t(b), counter[2] = c2, counter[3] = uint32_t(a);
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
  }
};

// The stream of one (seed, purpose, step); element by element. Every (step, element) has a counter of its own for steps
// below 2^48 and elements below 2^48. An element has one number: use it as one of the kinds below, not as two of them.
struct Random {
  uint64_t seed;
  uint32_t purpose;
  uint64_t step;

  HD uint32_t bits(uint64_t element) const {
    uint32_t counter[4];
    words(element, counter);
    return counter[0];
  }
  // In [0, 1), a multiple of 2^-24.
  HD float uniform(uint64_t element) const { return unit(bits(element)); }
  // Four numbers as uniform() has them, for the price of one. A group has the random words of the element of that number: use it as the one
  // or as the other.
  HD void four_uniform(uint64_t group, float (&u)[4]) const {
    uint32_t counter[4];
    words(group, counter);
    u[0] = unit(counter[0]), u[1] = unit(counter[1]), u[2] = unit(counter[2]), u[3] = unit(counter[3]);
  }
  // In [0, n).
  HD uint32_t below(uint64_t element, uint32_t n) const { return uint32_t(uint64_t(bits(element)) * n >> 32); }
  // Standard normal (Box-Muller over two uniform numbers, the first in (0, 1]).
  HD float normal(uint64_t element) const {
    uint32_t counter[4];
    words(element, counter);
    return sqrtf(-2 * logf(unit(counter[0]) + 0x1p-24f)) * cosf(6.28318530718f * unit(counter[1]));
  }

 private:
  HD static float unit(uint32_t bits) { return float(int32_t(bits >> 8)) * 0x1p-24f; }
  HD void words(uint64_t element, uint32_t (&counter)[4]) const {
    counter[0] = uint32_t(element), counter[1] = uint32_t(element >> 32) | uint32_t(step >> 32 << 16);
    counter[2] = uint32_t(step), counter[3] = purpose;
    Philox{{uint32_t(seed), uint32_t(seed >> 32)}}(counter);
  }
};

}  // namespace pipecast
