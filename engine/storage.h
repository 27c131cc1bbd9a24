#pragma once
// The types of tensors. Activations and their gradients are fp32, or bf16 where a run says so; what counts or points (labels, tokens,
// lengths) is int32. Weights, their gradients, statistics and every sum are fp32.
#include <bit>
#include <cstdint>

#include "engine/host_device.h"

namespace pipecast {

enum class Storage : uint8_t { fp32, bf16, int32 };
constexpr const char* to_string(Storage storage) {
  return storage == Storage::fp32 ? "fp32" : storage == Storage::bf16 ? "bf16" : "int32";
}

// The upper half of a float. Kernels read it as the float that it is, and round what they write to the nearest, ties to even.
struct Bfloat16 {
  uint16_t bits = 0;

  Bfloat16() = default;
  HD Bfloat16(float value) {
    const uint32_t whole = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (whole + 0x7fff + (whole >> 16 & 1)) >> 16;
    const uint32_t nan = whole >> 16 | 0x40;  // rounding could carry a NaN on to an infinity
    bits = uint16_t((whole & 0x7fffffff) > 0x7f800000 ? nan : rounded);
  }
  HD operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

// Floats of memory that so many elements take.
constexpr int64_t floats_of(Storage storage, int64_t elements) { return storage == Storage::bf16 ? (elements + 1) / 2 : elements; }
constexpr int64_t bytes_of(Storage storage, int64_t elements) { return elements * (storage == Storage::bf16 ? 2 : 4); }

// Defined for these three types only.
template <class T>
extern const Storage storage_of;
template <>
inline constexpr Storage storage_of<float> = Storage::fp32;
template <>
inline constexpr Storage storage_of<Bfloat16> = Storage::bf16;
template <>
inline constexpr Storage storage_of<int32_t> = Storage::int32;

// Calls body with an element of the type of an activation (fp32 or bf16): what a layer launches its kernels in.
template <class Body>
void with_element(Storage storage, const Body& body) {
  if (storage == Storage::bf16) body(Bfloat16());
  else body(float());
}

// Rounds a number of floats up so that what follows stays aligned to 64 bytes.
constexpr int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace pipecast
