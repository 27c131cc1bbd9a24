#pragma once
// What the simulated libraries share.
#include <atomic>
#include <bit>
#include <cstdint>

#include "tests/simulated_cuda/machine.h"

namespace simulated_cuda {

inline float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
inline uint16_t to_bf16(float value) {  // to the nearest, ties to even
  const auto whole = std::bit_cast<uint32_t>(value);
  if ((whole & 0x7fffffff) > 0x7f800000) return uint16_t(whole >> 16 | 0x40);
  return uint16_t((whole + 0x7fff + (whole >> 16 & 1)) >> 16);
}
inline float to_tf32(float value) {  // 10 bits of mantissa
  const auto whole = std::bit_cast<uint32_t>(value);
  if ((whole & 0x7f800000) == 0x7f800000) return value;
  return std::bit_cast<float>((whole + 0xfff + (whole >> 13 & 1)) & ~0x1fffu);
}

// A handle serves one thread at a time.
class InUse {
 public:
  InUse(std::atomic<bool>& flag, const char* call) : flag_(flag) {
    if (flag_.exchange(true, std::memory_order_relaxed)) stop(std::string(call) + ": two threads use one handle at the same time");
  }
  ~InUse() { flag_.store(false, std::memory_order_relaxed); }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  std::atomic<bool>& flag_;
};

}  // namespace simulated_cuda
