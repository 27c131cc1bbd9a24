#pragma once
// Vectors on the host: as many floats as one register holds, by the compiler's vector extension. For code of the host alone; nvcc does not
// take it.
#include <cstdint>

namespace pipecast {

#if defined(__AVX512F__)
constexpr int64_t lanes = 16;
constexpr int vector_registers = 32;
#elif defined(__AVX__)
constexpr int64_t lanes = 8;
constexpr int vector_registers = 16;
#else
constexpr int64_t lanes = 4;
constexpr int vector_registers = 16;
#endif

typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(lanes * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<Unaligned*>(to) = v; }

}  // namespace pipecast
