#pragma once
// Matrix products, row-major fp32: oneDNN on the host (a plain loop where it is absent), cuBLAS on the GPU.
#include "engine/device.h"
#include "engine/storage.h"

namespace pipecast {

// C (m x n) = op(A) (m x k) * op(B) (k x n) + beta * C, rows stored one after another without gaps.
// transpose_a: A is stored k x m; transpose_b: B is stored n x k.
void gemm(Device, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float beta,
          float* c);

// Floats from the beginning of one stored row to that of the next: a matrix that is some columns of a wider one.
struct RowDistances {
  int64_t a, b, c;
};
void gemm(Device, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float beta, float* c,
          RowDistances);

#ifdef PIPECAST_CUDA
// The same of matrices in bf16, on a GPU. Sums are fp32.
void gemm(Device, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Bfloat16* a, const Bfloat16* b, float beta,
          Bfloat16* c);
void gemm(Device, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Bfloat16* a, const Bfloat16* b, float beta,
          float* c);
#endif

// The same as a plain loop, on any device: the fallback where there is no library, and where a sum is empty.
void gemm_plain(Device, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float beta,
                float* c, RowDistances);

}  // namespace pipecast
