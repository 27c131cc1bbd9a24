#pragma once
// The tensor cores of a GPU: a warp multiplies small matrices of bf16 and adds their exact products in fp32.
#include <cstdint>

#include "engine/launch.h"
#include "engine/storage.h"

namespace pipecast {

// Two neighbouring elements in the word that a tensor core takes them in.
HD uint32_t pair_of(Bfloat16 first, Bfloat16 second) { return uint32_t(second.bits) << 16 | first.bits; }

#ifdef PIPECAST_DEVICE_CODE
// sum (16 x 8) += a (16 x 16) * b (16 x 8). All 32 lanes of a warp call it together; each has a part of the matrices (PTX ISA, "Matrix
// fragments for mma.m16n8k16"). With g = lane / 4 and t = lane % 4:
//   a    words of two columns: (row g, column 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   b    words of two rows: (row 2t, column g), (2t + 8, g)
//   sum  (row g, column 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
__device__ inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef PIPECAST_EMULATOR
  emulated_multiply_add(sum, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800  // math bf16 is refused on others
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif

}  // namespace pipecast
