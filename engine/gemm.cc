#include "engine/gemm.h"

#ifdef PIPECAST_ONEDNN
#include <dnnl.h>
#include <dnnl_debug.h>
#endif
#ifdef PIPECAST_CUDA
#include <cublas_v2.h>

#include <map>
#endif

namespace pipecast {

namespace {

#ifdef PIPECAST_ONEDNN
void check(dnnl_status_t status, std::source_location where = std::source_location::current()) {
  if (status != dnnl_success) fail("oneDNN", dnnl_status2str(status), where);
}
#endif

#ifdef PIPECAST_CUDA
void check(cublasStatus_t status, std::source_location where = std::source_location::current()) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("cuBLAS", cublasGetStatusString(status), where);
}

// A handle belongs to the GPU that was current when it was made, and serves one thread at a time.
struct BlasHandle {
  cublasHandle_t handle = nullptr;

  BlasHandle() { check(cublasCreate(&handle)); }
  ~BlasHandle() { cublasDestroy(handle); }
  BlasHandle(const BlasHandle&) = delete;
  BlasHandle& operator=(const BlasHandle&) = delete;
};

// cuBLAS stores columns one after another: to it our matrices are transposed, and C^T = op(B)^T * op(A)^T.
cublasOperation_t turn(bool transpose) { return transpose ? CUBLAS_OP_T : CUBLAS_OP_N; }

cublasHandle_t blas_handle(Device d) {
  static thread_local std::map<int, BlasHandle> handles;
  int gpu = 0;
  pipecast::check(cudaGetDevice(&gpu));
  cublasHandle_t handle = handles[gpu].handle;
  check(cublasSetStream(handle, d.stream));
  // After the stream, which takes the workspace away. One of the stream's own: products repeat their bits whatever other streams do, and
  // a captured graph finds it again.
  check(cublasSetWorkspace(handle, d.scratch, device_scratch_floats * sizeof(float)));
  check(cublasSetMathMode(handle, d.tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH));
  return handle;
}
#endif

}  // namespace

void gemm(Device d, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float beta,
          float* c) {
  gemm(d, transpose_a, transpose_b, m, n, k, a, b, beta, c, {transpose_a ? m : k, transpose_b ? k : n, n});
}

void gemm(Device d, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float beta, float* c,
          RowDistances row) {
  if (m == 0 || n == 0) return;
  // The libraries refuse rows of no elements.
  if (k == 0) return gemm_plain(d, transpose_a, transpose_b, m, n, k, a, b, beta, c, row);
#ifdef PIPECAST_CUDA
  if (d.gpu) {
    const float one = 1;
    return check(cublasSgemm_64(blas_handle(d), turn(transpose_b), turn(transpose_a), n, m, k, &one, b, row.b, a, row.a, &beta, c,
                                row.c));
  }
#endif
#ifdef PIPECAST_ONEDNN
  if (!d.gpu) {
    return check(dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1, a, row.a, b, row.b, beta, c, row.c));
  }
#endif
  gemm_plain(d, transpose_a, transpose_b, m, n, k, a, b, beta, c, row);
}

#ifdef PIPECAST_CUDA
namespace {

void gemm_of_bf16(Device d, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Bfloat16* a, const Bfloat16* b,
                  float beta, void* c, cudaDataType_t type_of_c) {
  if (m == 0 || n == 0) return;
  const float one = 1;
  check(cublasGemmEx_64(blas_handle(d), turn(transpose_b), turn(transpose_a), n, m, k, &one, b, CUDA_R_16BF, transpose_b ? k : n, a,
                        CUDA_R_16BF, transpose_a ? m : k, &beta, c, type_of_c, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

}  // namespace

void gemm(Device d, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Bfloat16* a, const Bfloat16* b, float beta,
          Bfloat16* c) {
  gemm_of_bf16(d, transpose_a, transpose_b, m, n, k, a, b, beta, c, CUDA_R_16BF);
}
void gemm(Device d, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Bfloat16* a, const Bfloat16* b, float beta,
          float* c) {
  gemm_of_bf16(d, transpose_a, transpose_b, m, n, k, a, b, beta, c, CUDA_R_32F);
}
#endif

}  // namespace pipecast
