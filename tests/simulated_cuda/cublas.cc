// cuBLAS: matrix products, stored column after column, in plain loops. Sums are fp32.
#include "cublas_v2.h"

#include <algorithm>
#include <vector>

#include "tests/simulated_cuda/library.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  std::atomic<bool> in_use = false;
};

namespace {

using namespace simulated_cuda;

cublasStatus_t refuse(cublasStatus_t status, const std::string& what) {
  say(what);
  return status;
}

struct Matrix {
  const void* data;
  cudaDataType_t type;
  int64_t distance;  // from column to column
  bool transposed = false;

  float at(int64_t row, int64_t column) const {
    const int64_t place = transposed ? row * distance + column : column * distance + row;
    return type == CUDA_R_32F ? static_cast<const float*>(data)[place] : from_bf16(static_cast<const uint16_t*>(data)[place]);
  }
};

size_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

void multiply(int64_t m, int64_t n, int64_t k, float alpha, Matrix a, Matrix b, float beta, Matrix c, bool tf32) {
  const auto operand = [tf32](float v) { return tf32 ? to_tf32(v) : v; };
  std::vector<float> left(static_cast<size_t>(m * k)), sum(static_cast<size_t>(m));
  for (int64_t l = 0; l < k; ++l)
    for (int64_t i = 0; i < m; ++i) left[size_t(l * m + i)] = operand(a.at(i, l));
  for (int64_t j = 0; j < n; ++j) {
    std::fill(sum.begin(), sum.end(), 0.f);
    for (int64_t l = 0; l < k; ++l) {
      const float right = operand(b.at(l, j));
      const float* column = left.data() + l * m;
      for (int64_t i = 0; i < m; ++i) sum[size_t(i)] += column[i] * right;
    }
    for (int64_t i = 0; i < m; ++i) {
      const float value = alpha * sum[size_t(i)] + (beta == 0 ? 0.f : beta * c.at(i, j));  // with a beta of 0, what was there is not read
      if (c.type == CUDA_R_32F) static_cast<float*>(const_cast<void*>(c.data))[j * c.distance + i] = value;
      else static_cast<uint16_t*>(const_cast<void*>(c.data))[j * c.distance + i] = to_bf16(value);
    }
  }
}

// A matrix of so many stored rows and columns: checked, and added to what the call reaches.
cublasStatus_t check_matrix(const Matrix& x, char name, int64_t rows, int64_t columns, Allocations& reached) {
  if (x.distance < std::max<int64_t>(1, rows))
    return refuse(CUBLAS_STATUS_INVALID_VALUE, std::string("cuBLAS: the leading dimension of ") + name + " is " + std::to_string(x.distance) +
                                                   " and a column has " + std::to_string(rows) + " elements");
  if (rows == 0 || columns == 0) return CUBLAS_STATUS_SUCCESS;
  const size_t bytes = size_t((columns - 1) * x.distance + rows) * size_of(x.type);
  if (reinterpret_cast<uintptr_t>(x.data) % size_of(x.type) != 0)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, std::string("cuBLAS: matrix ") + name + " is not aligned to its elements");
  const auto whole = allocation_of(x.data, bytes);
  if (!whole || !whole->on_device) {
    break_device(cudaErrorIllegalAddress);
    return refuse(CUBLAS_STATUS_EXECUTION_FAILED, std::string("cuBLAS: the ") + std::to_string(bytes) + " bytes of matrix " + name +
                                                      " do not lie in device memory that is not freed");
  }
  reached.push_back(whole);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t product(cublasHandle_t h, cublasOperation_t of_a, cublasOperation_t of_b, int64_t m, int64_t n, int64_t k, const void* alpha,
                       Matrix a, Matrix b, const void* beta, Matrix c, const char* call) {
  if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
  const InUse in_use(h->in_use, call);
  if (m < 0 || n < 0 || k < 0 || !alpha || !beta || of_a == CUBLAS_OP_C || of_b == CUBLAS_OP_C) return CUBLAS_STATUS_INVALID_VALUE;
  a.transposed = of_a == CUBLAS_OP_T, b.transposed = of_b == CUBLAS_OP_T;
  Allocations reached;
  for (cublasStatus_t status : {check_matrix(a, 'A', a.transposed ? k : m, a.transposed ? m : k, reached),
                                check_matrix(b, 'B', b.transposed ? n : k, b.transposed ? k : n, reached), check_matrix(c, 'C', m, n, reached)})
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
  if (h->workspace) {
    const auto whole = allocation_of(h->workspace, h->workspace_bytes);
    if (!whole) {
      break_device(cudaErrorIllegalAddress);
      return refuse(CUBLAS_STATUS_EXECUTION_FAILED, std::string(call) + ": the workspace is not device memory, or it is freed");
    }
    reached.push_back(whole);
  }
  const bool tf32 = h->math == CUBLAS_TF32_TENSOR_OP_MATH && a.type == CUDA_R_32F;
  const size_t used = std::min<size_t>(h->workspace_bytes, size_t(m * n) * sizeof(float));
  const float scale = *static_cast<const float*>(alpha), add = *static_cast<const float*>(beta);
  const cudaError_t status = submit(h->stream, std::move(reached), [=, workspace = h->workspace] {
    if (workspace) poison(workspace, used);
    multiply(m, n, k, scale, a, b, add, c, tf32);
  });
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace

const char* cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "an unknown status";
}

cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value) {
  *value = type == MAJOR_VERSION ? 13 : 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  if (refuse_in_any_capture("cublasCreate") != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasContext;
  born("cuBLAS handles", *handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  if (!died("cuBLAS handles", handle)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "cublasDestroy: no such handle");
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  const InUse in_use(handle->in_use, "cublasSetStream");
  handle->stream = stream;
  handle->workspace = nullptr, handle->workspace_bytes = 0;  // documented: back to the pool of the library's own
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  const InUse in_use(handle->in_use, "cublasSetWorkspace");
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasSetWorkspace: the workspace is not aligned to 256 bytes");
  handle->workspace = workspace, handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  const InUse in_use(handle->in_use, "cublasSetMathMode");
  if (mode != CUBLAS_DEFAULT_MATH && mode != CUBLAS_PEDANTIC_MATH && mode != CUBLAS_TF32_TENSOR_OP_MATH) return CUBLAS_STATUS_INVALID_VALUE;
  handle->math = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_64(cublasHandle_t handle, cublasOperation_t of_a, cublasOperation_t of_b, int64_t m, int64_t n, int64_t k,
                              const float* alpha, const float* a, int64_t lda, const float* b, int64_t ldb, const float* beta, float* c,
                              int64_t ldc) {
  return product(handle, of_a, of_b, m, n, k, alpha, {a, CUDA_R_32F, lda}, {b, CUDA_R_32F, ldb}, beta, {c, CUDA_R_32F, ldc}, "cublasSgemm_64");
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t of_a, cublasOperation_t of_b, int64_t m, int64_t n, int64_t k,
                               const void* alpha, const void* a, cudaDataType_t type_of_a, int64_t lda, const void* b,
                               cudaDataType_t type_of_b, int64_t ldb, const void* beta, void* c, cudaDataType_t type_of_c, int64_t ldc,
                               cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  const bool supported = compute == CUBLAS_COMPUTE_32F && algorithm == CUBLAS_GEMM_DEFAULT && type_of_a == type_of_b &&
                         (type_of_a == CUDA_R_16BF ? type_of_c == CUDA_R_16BF || type_of_c == CUDA_R_32F
                                                   : type_of_a == CUDA_R_32F && type_of_c == CUDA_R_32F);
  if (!supported) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "cublasGemmEx_64: these types are not supported together");
  return product(handle, of_a, of_b, m, n, k, alpha, {a, type_of_a, lda}, {b, type_of_b, ldb}, beta, {c, type_of_c, ldc}, "cublasGemmEx_64");
}
