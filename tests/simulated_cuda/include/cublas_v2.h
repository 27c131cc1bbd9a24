#pragma once
// cuBLAS, as far as pipecast calls it: declarations with the names and values of NVIDIA's cublas_v2.h.
#include <cstdint>

#include "cuda_runtime.h"

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_NOT_INITIALIZED = 1,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_EXECUTION_FAILED = 13,
  CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1, CUBLAS_OP_C = 2 };
enum cublasMath_t { CUBLAS_DEFAULT_MATH = 0, CUBLAS_PEDANTIC_MATH = 2, CUBLAS_TF32_TENSOR_OP_MATH = 3 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68 };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum libraryPropertyType { MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL };
typedef struct cublasContext* cublasHandle_t;

const char* cublasGetStatusString(cublasStatus_t);
cublasStatus_t cublasGetProperty(libraryPropertyType, int* value);
cublasStatus_t cublasCreate(cublasHandle_t*);
cublasStatus_t cublasDestroy(cublasHandle_t);
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t);
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void* workspace, size_t bytes);
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t);
cublasStatus_t cublasSgemm_64(cublasHandle_t, cublasOperation_t of_a, cublasOperation_t of_b, int64_t m, int64_t n, int64_t k,
                              const float* alpha, const float* a, int64_t lda, const float* b, int64_t ldb, const float* beta, float* c,
                              int64_t ldc);
cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t of_a, cublasOperation_t of_b, int64_t m, int64_t n, int64_t k,
                               const void* alpha, const void* a, cudaDataType_t type_of_a, int64_t lda, const void* b,
                               cudaDataType_t type_of_b, int64_t ldb, const void* beta, void* c, cudaDataType_t type_of_c, int64_t ldc,
                               cublasComputeType_t, cublasGemmAlgo_t);
