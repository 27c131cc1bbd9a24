// cuDNN's legacy convolution calls for NHWC images, in plain loops. Algorithms, their determinism and their math types are those that
// cuDNN 9 named on an H200.
#include "cudnn.h"

#include <algorithm>
#include <vector>

#include "tests/simulated_cuda/library.h"

struct cudnnContext {
  cudaStream_t stream = nullptr;
  std::atomic<bool> in_use = false;
};
struct cudnnTensorStruct {
  cudnnTensorFormat_t format{};
  cudnnDataType_t type{};
  int n = 0, c = 0, h = 0, w = 0;  // n of 0: not set
};
struct cudnnFilterStruct {
  cudnnTensorFormat_t format{};
  cudnnDataType_t type{};
  int k = 0, c = 0, h = 0, w = 0;
};
struct cudnnConvolutionStruct {
  int padding_h = 0, padding_w = 0, stride_h = 0, stride_w = 0, dilation_h = 0, dilation_w = 0, groups = 1;  // a stride of 0: not set
  cudnnMathType_t math = CUDNN_DEFAULT_MATH;
};

namespace {

using namespace simulated_cuda;

cudnnStatus_t refuse(cudnnStatus_t status, const std::string& what) {
  say(what);
  return status;
}

bool known(cudnnDataType_t type) { return type == CUDNN_DATA_FLOAT || type == CUDNN_DATA_BFLOAT16; }

// A convolution, checked.
struct Problem {
  cudnnTensorStruct x, y;
  cudnnFilterStruct w;
  cudnnConvolutionStruct how;

  bool bf16() const { return x.type == CUDNN_DATA_BFLOAT16; }
  bool tf32() const { return !bf16() && how.math != CUDNN_FMA_MATH; }
  size_t x_count() const { return size_t(x.n) * size_t(x.h) * size_t(x.w) * size_t(x.c); }
  size_t y_count() const { return size_t(y.n) * size_t(y.h) * size_t(y.w) * size_t(y.c); }
  size_t w_count() const { return size_t(w.k) * size_t(w.h) * size_t(w.w) * size_t(w.c); }
  size_t bytes(size_t elements) const { return elements * (bf16() ? 2 : 4); }
};

int out_size(int in, int kernel, int padding, int stride, int dilation) { return (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1; }

cudnnStatus_t check_problem(const Problem& p) {
  if (p.x.n == 0 || p.y.n == 0 || p.w.k == 0 || p.how.stride_h == 0) return refuse(CUDNN_STATUS_BAD_PARAM, "cuDNN: a descriptor was not set");
  if (p.x.format != CUDNN_TENSOR_NHWC || p.y.format != CUDNN_TENSOR_NHWC || p.w.format != CUDNN_TENSOR_NHWC)
    return refuse(CUDNN_STATUS_NOT_SUPPORTED_LAYOUT, "cuDNN: only NHWC is simulated");
  if (p.x.type != p.y.type || p.x.type != p.w.type) return refuse(CUDNN_STATUS_BAD_PARAM, "cuDNN: images and weights are of different types");
  const cudnnConvolutionStruct& c = p.how;
  const bool fits = p.y.n == p.x.n && p.y.c == p.w.k && p.x.c == p.w.c * c.groups && p.w.k % c.groups == 0 &&
                    p.y.h == out_size(p.x.h, p.w.h, c.padding_h, c.stride_h, c.dilation_h) &&
                    p.y.w == out_size(p.x.w, p.w.w, c.padding_w, c.stride_w, c.dilation_w);
  if (!fits) return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "cuDNN: the shapes of images, weights and outputs do not belong together");
  if (p.bf16() && (c.groups > 1 || c.math == CUDNN_FMA_MATH)) return CUDNN_STATUS_NOT_SUPPORTED;
  return CUDNN_STATUS_SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------------
// Arithmetic

std::vector<float> read(const Problem& p, const void* from, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = p.bf16() ? from_bf16(static_cast<const uint16_t*>(from)[i])
                         : p.tf32() ? to_tf32(static_cast<const float*>(from)[i]) : static_cast<const float*>(from)[i];
  return values;
}

void write(const Problem& p, void* to, const std::vector<float>& values, float alpha, float beta) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (p.bf16()) {
      auto& place = static_cast<uint16_t*>(to)[i];
      place = to_bf16(alpha * values[i] + (beta == 0 ? 0.f : beta * from_bf16(place)));
    } else {
      auto& place = static_cast<float*>(to)[i];
      place = alpha * values[i] + (beta == 0 ? 0.f : beta * place);
    }
  }
}

// f(pixel of x, pixel of y, tap) for every pair that a tap connects, in image i.
template <class F>
void each_tap(const Problem& p, int i, const F& f) {
  for (int oh = 0; oh < p.y.h; ++oh)
    for (int ow = 0; ow < p.y.w; ++ow)
      for (int r = 0; r < p.w.h; ++r)
        for (int s = 0; s < p.w.w; ++s) {
          const int h = oh * p.how.stride_h + r * p.how.dilation_h - p.how.padding_h;
          const int w = ow * p.how.stride_w + s * p.how.dilation_w - p.how.padding_w;
          if (h < 0 || h >= p.x.h || w < 0 || w >= p.x.w) continue;
          f((int64_t(i) * p.x.h + h) * p.x.w + w, (int64_t(i) * p.y.h + oh) * p.y.w + ow, int64_t(r) * p.w.w + s);
        }
}

// f(place in x, place in y, place in w, channels) for rows of the input channels of one output channel.
template <class F>
void each_row(const Problem& p, int64_t x, int64_t y, int64_t tap, const F& f) {
  const int64_t taps = int64_t(p.w.h) * p.w.w, outputs = p.w.k / p.how.groups;
  for (int64_t k = 0; k < p.w.k; ++k) f(x * p.x.c + k / outputs * p.w.c, y * p.y.c + k, (k * taps + tap) * p.w.c, int64_t(p.w.c));
}

std::vector<float> forward(const Problem& p, const std::vector<float>& x, const std::vector<float>& w) {
  // Weights with the outputs of a group next to each other: the inner loop is a vector.
  const int64_t taps = int64_t(p.w.h) * p.w.w, outputs = p.w.k / p.how.groups;
  std::vector<float> turned(w.size()), y(p.y_count());
  for (int64_t k = 0; k < p.w.k; ++k)
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t c = 0; c < p.w.c; ++c)
        turned[size_t(((k / outputs * taps + t) * p.w.c + c) * outputs + k % outputs)] = w[size_t((k * taps + t) * p.w.c + c)];
  for (int i = 0; i < p.x.n; ++i)
    each_tap(p, i, [&](int64_t from, int64_t to, int64_t tap) {
      for (int64_t g = 0; g < p.how.groups; ++g) {
        float* sum = y.data() + to * p.y.c + g * outputs;
        for (int64_t c = 0; c < p.w.c; ++c) {
          const float value = x[size_t(from * p.x.c + g * p.w.c + c)];
          const float* weights = turned.data() + ((g * taps + tap) * p.w.c + c) * outputs;
          for (int64_t k = 0; k < outputs; ++k) sum[k] += value * weights[k];
        }
      }
    });
  return y;
}

std::vector<float> backward_data(const Problem& p, const std::vector<float>& dy, const std::vector<float>& w) {
  std::vector<float> dx(p.x_count());
  for (int i = 0; i < p.x.n; ++i)
    each_tap(p, i, [&](int64_t x, int64_t y, int64_t tap) {
      each_row(p, x, y, tap, [&](int64_t in, int64_t out, int64_t weight, int64_t n) {
        for (int64_t c = 0; c < n; ++c) dx[size_t(in + c)] += dy[size_t(out)] * w[size_t(weight + c)];
      });
    });
  return dx;
}

// Images are added in the order first, first + 1, ...: what is not deterministic begins where it likes.
std::vector<float> backward_filter(const Problem& p, const std::vector<float>& x, const std::vector<float>& dy, int first) {
  std::vector<float> one(p.w_count()), all(p.w_count());
  for (int i = 0; i < p.x.n; ++i) {
    std::fill(one.begin(), one.end(), 0.f);
    each_tap(p, (first + i) % p.x.n, [&](int64_t at, int64_t y, int64_t tap) {
      each_row(p, at, y, tap, [&](int64_t in, int64_t out, int64_t weight, int64_t n) {
        for (int64_t c = 0; c < n; ++c) one[size_t(weight + c)] += dy[size_t(out)] * x[size_t(in + c)];
      });
    });
    for (size_t j = 0; j < one.size(); ++j) all[j] += one[j];
  }
  return all;
}

int arrival() {
  static std::atomic<int> next = 0;
  return next.fetch_add(1, std::memory_order_relaxed);
}

// ---------------------------------------------------------------------------------------------------------------------
// Calls

// Algorithm 0 needs no workspace, 1 gathers.
size_t workspace_of(const Problem& p, int algorithm) { return algorithm == 0 ? 0 : p.bytes(p.w_count()) + 4096; }

template <class Performance>
cudnnStatus_t list(cudnnHandle_t h, const Problem& p, bool zero_is_deterministic, int total, int most, int* count, Performance* results) {
  if (!h) return CUDNN_STATUS_NOT_INITIALIZED;
  if (!count || !results || most < 1) return CUDNN_STATUS_BAD_PARAM;
  const cudnnStatus_t status = check_problem(p);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  *count = std::min(most, total);
  for (int i = 0; i < *count; ++i) {
    Performance& r = results[i] = {};
    r.algo = static_cast<decltype(r.algo)>(i);
    r.status = i < 2 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
    r.time = -1;
    r.memory = i < 2 ? workspace_of(p, i) : 0;
    r.determinism = i == 0 && !zero_is_deterministic ? CUDNN_NON_DETERMINISTIC : CUDNN_DETERMINISTIC;
    r.mathType = p.how.math;
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t workspace(cudnnHandle_t h, const Problem& p, int algorithm, size_t* bytes) {
  if (!h) return CUDNN_STATUS_NOT_INITIALIZED;
  const cudnnStatus_t status = check_problem(p);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  if (algorithm > 1) return CUDNN_STATUS_NOT_SUPPORTED;
  *bytes = workspace_of(p, algorithm);
  return CUDNN_STATUS_SUCCESS;
}

struct Given {
  const void* data;
  size_t count;
};

// Checks a call and gives the stream its work: what `compute` makes of the two inputs goes to the output.
template <class Compute>
cudnnStatus_t run(cudnnHandle_t h, const Problem& p, int algorithm, void* memory, size_t memory_bytes, const void* alpha, const void* beta,
                  Given a, Given b, Given out, const Compute& compute) {
  if (!h) return CUDNN_STATUS_NOT_INITIALIZED;
  const InUse in_use(h->in_use, "cudnnConvolution");
  if (!alpha || !beta) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  if (const cudnnStatus_t status = check_problem(p); status != CUDNN_STATUS_SUCCESS) return status;
  if (algorithm > 1) return CUDNN_STATUS_NOT_SUPPORTED;
  const size_t needed = workspace_of(p, algorithm);
  if (memory_bytes < needed)
    return refuse(CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT,
                  "cuDNN: the workspace has " + std::to_string(memory_bytes) + " bytes and the algorithm needs " + std::to_string(needed));
  Allocations reached;
  const std::pair<const void*, size_t> blocks[] = {{a.data, p.bytes(a.count)}, {b.data, p.bytes(b.count)}, {out.data, p.bytes(out.count)}, {memory, needed}};
  for (const auto& [data, bytes] : blocks) {
    if (bytes == 0) continue;
    if (reinterpret_cast<uintptr_t>(data) % 16 != 0)
      return refuse(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "cuDNN: an address is not aligned to 16 bytes");
    const auto whole = allocation_of(data, bytes);
    if (!whole || !whole->on_device) {
      break_device(cudaErrorIllegalAddress);
      return refuse(CUDNN_STATUS_EXECUTION_FAILED, "cuDNN: " + std::to_string(bytes) + " bytes do not lie in device memory that is not freed");
    }
    reached.push_back(whole);
  }
  const float scale = *static_cast<const float*>(alpha), add = *static_cast<const float*>(beta);
  const cudaError_t status = submit(h->stream, std::move(reached), [=] {
    if (needed > 0) poison(memory, needed);
    write(p, const_cast<void*>(out.data), compute(read(p, a.data, a.count), read(p, b.data, b.count)), scale, add);
  });
  return status == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
}

template <class T>
cudnnStatus_t create(T** object, const char* kind) {
  if (!object) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  *object = new T;
  born(kind, *object);
  return CUDNN_STATUS_SUCCESS;
}
template <class T>
cudnnStatus_t destroy(T* object, const char* kind) {
  if (!died(kind, object)) return refuse(CUDNN_STATUS_BAD_PARAM, std::string("cuDNN: no such object to destroy among ") + kind);
  delete object;
  return CUDNN_STATUS_SUCCESS;
}

constexpr const char *handles = "cuDNN handles", *tensors = "cuDNN tensor descriptors", *filters = "cuDNN filter descriptors",
                     *convolutions = "cuDNN convolution descriptors";

}  // namespace

size_t cudnnGetVersion() { return 90000; }

const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_BAD_PARAM_NULL_POINTER: return "CUDNN_STATUS_BAD_PARAM_NULL_POINTER";
    case CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER: return "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER";
    case CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT: return "CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT";
    case CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH: return "CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH";
    case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE: return "CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE";
    case CUDNN_STATUS_NOT_SUPPORTED_LAYOUT: return "CUDNN_STATUS_NOT_SUPPORTED_LAYOUT";
    case CUDNN_STATUS_EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
  }
  return "an unknown status";
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  if (refuse_in_any_capture("cudnnCreate") != cudaSuccess) return CUDNN_STATUS_NOT_INITIALIZED;
  return create(handle, handles);
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return destroy(handle, handles); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  if (!handle) return CUDNN_STATUS_NOT_INITIALIZED;
  const InUse in_use(handle->in_use, "cudnnSetStream");
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* d) { return create(d, tensors); }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { return destroy(d, tensors); }
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c, int h, int w) {
  if (!d || n < 1 || c < 1 || h < 1 || w < 1) return refuse(CUDNN_STATUS_BAD_PARAM, "cudnnSetTensor4dDescriptor: a size is not positive");
  if (!known(type)) return CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE;
  *d = {format, type, n, c, h, w};
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* d) { return create(d, filters); }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { return destroy(d, filters); }
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format, int k, int c, int h, int w) {
  if (!d || k < 1 || c < 1 || h < 1 || w < 1) return refuse(CUDNN_STATUS_BAD_PARAM, "cudnnSetFilter4dDescriptor: a size is not positive");
  if (!known(type)) return CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE;
  *d = {format, type, k, c, h, w};
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* d) { return create(d, convolutions); }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { return destroy(d, convolutions); }
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int padding_h, int padding_w, int stride_h, int stride_w,
                                              int dilation_h, int dilation_w, cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
  if (!d || padding_h < 0 || padding_w < 0 || stride_h < 1 || stride_w < 1 || dilation_h < 1 || dilation_w < 1) return CUDNN_STATUS_BAD_PARAM;
  if (mode != CUDNN_CROSS_CORRELATION || compute != CUDNN_DATA_FLOAT) return CUDNN_STATUS_NOT_SUPPORTED;
  *d = {padding_h, padding_w, stride_h, stride_w, dilation_h, dilation_w, d->groups, d->math};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math) {
  if (!d) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  d->math = math;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t d, int groups) {
  if (!d || groups < 1) return CUDNN_STATUS_BAD_PARAM;
  d->groups = groups;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t h, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                                                     cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y, int most, int* count,
                                                     cudnnConvolutionFwdAlgoPerf_t* results) {
  return list(h, {*x, *y, *w, *how}, true, CUDNN_CONVOLUTION_FWD_ALGO_COUNT, most, count, results);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t h, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy,
                                                          cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t dx, int most, int* count,
                                                          cudnnConvolutionBwdDataAlgoPerf_t* results) {
  return list(h, {*dx, *dy, *w, *how}, false, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT, most, count, results);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t h, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy,
                                                            cudnnConvolutionDescriptor_t how, cudnnFilterDescriptor_t dw, int most, int* count,
                                                            cudnnConvolutionBwdFilterAlgoPerf_t* results) {
  return list(h, {*x, *dy, *dw, *how}, false, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT, most, count, results);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t h, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                                                      cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t y,
                                                      cudnnConvolutionFwdAlgo_t algorithm, size_t* bytes) {
  return workspace(h, {*x, *y, *w, *how}, algorithm, bytes);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t h, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy,
                                                           cudnnConvolutionDescriptor_t how, cudnnTensorDescriptor_t dx,
                                                           cudnnConvolutionBwdDataAlgo_t algorithm, size_t* bytes) {
  return workspace(h, {*dx, *dy, *w, *how}, algorithm, bytes);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t h, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy,
                                                             cudnnConvolutionDescriptor_t how, cudnnFilterDescriptor_t dw,
                                                             cudnnConvolutionBwdFilterAlgo_t algorithm, size_t* bytes) {
  return workspace(h, {*x, *dy, *dw, *how}, algorithm, bytes);
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void* alpha, cudnnTensorDescriptor_t x, const void* x_data,
                                      cudnnFilterDescriptor_t w, const void* w_data, cudnnConvolutionDescriptor_t how,
                                      cudnnConvolutionFwdAlgo_t algorithm, void* memory, size_t bytes, const void* beta,
                                      cudnnTensorDescriptor_t y, void* y_data) {
  const Problem p{*x, *y, *w, *how};
  return run(h, p, algorithm, memory, bytes, alpha, beta, {x_data, p.x_count()}, {w_data, p.w_count()}, {y_data, p.y_count()},
             [p](const auto& a, const auto& b) { return forward(p, a, b); });
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void* alpha, cudnnFilterDescriptor_t w, const void* w_data,
                                           cudnnTensorDescriptor_t dy, const void* dy_data, cudnnConvolutionDescriptor_t how,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void* memory, size_t bytes, const void* beta,
                                           cudnnTensorDescriptor_t dx, void* dx_data) {
  const Problem p{*dx, *dy, *w, *how};
  return run(h, p, algorithm, memory, bytes, alpha, beta, {dy_data, p.y_count()}, {w_data, p.w_count()}, {dx_data, p.x_count()},
             [p](const auto& a, const auto& b) { return backward_data(p, a, b); });
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t h, const void* alpha, cudnnTensorDescriptor_t x, const void* x_data,
                                             cudnnTensorDescriptor_t dy, const void* dy_data, cudnnConvolutionDescriptor_t how,
                                             cudnnConvolutionBwdFilterAlgo_t algorithm, void* memory, size_t bytes, const void* beta,
                                             cudnnFilterDescriptor_t dw, void* dw_data) {
  const Problem p{*x, *dy, *dw, *how};
  return run(h, p, algorithm, memory, bytes, alpha, beta, {x_data, p.x_count()}, {dy_data, p.y_count()}, {dw_data, p.w_count()},
             [p, algorithm](const auto& a, const auto& b) { return backward_filter(p, a, b, algorithm == 0 ? arrival() : 0); });
}
