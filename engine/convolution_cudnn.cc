#include "engine/convolution.h"

#ifdef PIPECAST_CUDA
#include <cudnn.h>

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <vector>
#endif

namespace pipecast {

#ifdef PIPECAST_CUDA
namespace {

constexpr size_t workspace_limit = size_t(256) << 20;  // bytes

void check(cudnnStatus_t status, std::source_location where = std::source_location::current()) {
  if (status != CUDNN_STATUS_SUCCESS) fail("cuDNN", cudnnGetErrorString(status), where);
}

// An object of the library: a handle or a descriptor.
template <class T, cudnnStatus_t (*create)(T*), cudnnStatus_t (*destroy)(T)>
class Owned {
 public:
  Owned() { check(create(&object_)); }
  ~Owned() { destroy(object_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  operator T() const { return object_; }

 private:
  T object_ = nullptr;
};
using Handle = Owned<cudnnHandle_t, cudnnCreate, cudnnDestroy>;
using Images = Owned<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;
using Filter = Owned<cudnnFilterDescriptor_t, cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor>;
using Operation = Owned<cudnnConvolutionDescriptor_t, cudnnCreateConvolutionDescriptor, cudnnDestroyConvolutionDescriptor>;

// The calling thread's handle for the current GPU, working on the device's stream.
cudnnHandle_t handle(Device d) {
  static thread_local std::map<int, Handle> handles;
  int gpu = 0;
  pipecast::check(cudaGetDevice(&gpu));
  const Handle& found = handles[gpu];
  check(cudnnSetStream(found, d.stream));
  return found;
}

int narrow(int64_t size) {
  if (size > std::numeric_limits<int>::max()) {
    throw Error("convolution: a size of " + std::to_string(size) + " is more than cuDNN can count; use smaller batches");
  }
  return int(size);
}

template <class Algorithm>
struct Choice {
  Algorithm algorithm{};
  size_t workspace = 0;  // bytes
};

// The first that repeats its bits, computes in fp32 (or with tf32 in that) and is content with little memory, of `count` candidates,
// fastest first.
template <class Candidate, class WorkspaceSize>
auto choose(const ConvolutionShape& s, bool tf32, const Candidate* candidates, int count, const WorkspaceSize& workspace_size) {
  Choice<decltype(candidates->algo)> choice;
  for (int i = 0; i < count; ++i) {
    const Candidate& c = candidates[i];
    const bool allowed = c.mathType == CUDNN_FMA_MATH || c.mathType == CUDNN_DEFAULT_MATH || (tf32 && c.mathType == CUDNN_TENSOR_OP_MATH);
    if (c.status != CUDNN_STATUS_SUCCESS || c.determinism != CUDNN_DETERMINISTIC || !allowed) continue;
    choice.algorithm = c.algo;
    if (workspace_size(c.algo, &choice.workspace) == CUDNN_STATUS_SUCCESS && choice.workspace <= workspace_limit) return choice;
  }
  throw Error(to_string(s) + ": cuDNN has no algorithm for it that computes in fp32 and repeats its bits; use device 'cpu'");
}

struct Algorithms {
  Choice<cudnnConvolutionFwdAlgo_t> forward;
  Choice<cudnnConvolutionBwdDataAlgo_t> backward_input;
  Choice<cudnnConvolutionBwdFilterAlgo_t> backward_weight;
};

// What `choose` chose for the shape, asked once in a process.
template <class ChooseAll>
Algorithms algorithms(const ConvolutionShape& s, bool tf32, const ChooseAll& choose_all) {
  struct Known {
    ConvolutionShape shape;
    bool tf32;
    Algorithms algorithms;
  };
  static std::mutex mutex;
  static std::vector<Known> known;
  const std::lock_guard lock(mutex);
  for (const Known& k : known)
    if (k.shape == s && k.tf32 == tf32) return k.algorithms;
  return known.emplace_back(Known{s, tf32, choose_all()}).algorithms;
}

class CudnnConvolution : public ConvolutionPlan {
 public:
  CudnnConvolution(Device d, const ConvolutionShape& s) {
    describe(x_, s.in);
    describe(y_, s.out());
    check(cudnnSetFilter4dDescriptor(weight_, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, narrow(s.out_channels), narrow(s.in.c / s.groups),
                                     narrow(s.kernel_h), narrow(s.kernel_w)));
    const int padding = narrow(s.padding), stride = narrow(s.stride), dilation = narrow(s.dilation);
    check(cudnnSetConvolution2dDescriptor(operation_, padding, padding, stride, stride, dilation, dilation, CUDNN_CROSS_CORRELATION,
                                          CUDNN_DATA_FLOAT));
    check(cudnnSetConvolutionGroupCount(operation_, narrow(s.groups)));
    // The default may round operands to TF32.
    check(cudnnSetConvolutionMathType(operation_, d.tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH));
    algorithms_ = algorithms(s, d.tf32, [&] { return choose_all(d, s); });
  }

  int64_t workspace() const override {
    const size_t bytes =
        std::max({algorithms_.forward.workspace, algorithms_.backward_input.workspace, algorithms_.backward_weight.workspace});
    return int64_t((bytes + sizeof(float) - 1) / sizeof(float));
  }

  void forward(Device d, const float* x, const float* weight, float* y, float* workspace) override {
    check(cudnnConvolutionForward(handle(d), &one, x_, x, weight_, weight, operation_, algorithms_.forward.algorithm, workspace,
                                  algorithms_.forward.workspace, &zero, y_, y));
  }
  void backward_input(Device d, const float* dy, const float* weight, float* dx, bool add, float* workspace) override {
    check(cudnnConvolutionBackwardData(handle(d), &one, weight_, weight, y_, dy, operation_, algorithms_.backward_input.algorithm,
                                       workspace, algorithms_.backward_input.workspace, add ? &one : &zero, x_, dx));
  }
  void backward_weight(Device d, const float* x, const float* dy, float* dweight, float* workspace) override {
    check(cudnnConvolutionBackwardFilter(handle(d), &one, x_, x, y_, dy, operation_, algorithms_.backward_weight.algorithm, workspace,
                                         algorithms_.backward_weight.workspace, &one, weight_, dweight));
  }

  std::string implementation() const override {
    return "cudnn:" + std::to_string(algorithms_.forward.algorithm) + ", cudnn:" + std::to_string(algorithms_.backward_input.algorithm) +
           ", cudnn:" + std::to_string(algorithms_.backward_weight.algorithm);
  }

 private:
  static constexpr float zero = 0, one = 1;

  Algorithms choose_all(Device d, const ConvolutionShape& s) const {
    const cudnnHandle_t h = handle(d);
    Algorithms chosen;
    int count = 0;
    cudnnConvolutionFwdAlgoPerf_t forward[CUDNN_CONVOLUTION_FWD_ALGO_COUNT];
    check(cudnnGetConvolutionForwardAlgorithm_v7(h, x_, weight_, operation_, y_, CUDNN_CONVOLUTION_FWD_ALGO_COUNT, &count, forward));
    chosen.forward = choose(s, d.tf32, forward, count, [&](cudnnConvolutionFwdAlgo_t algorithm, size_t* bytes) {
      return cudnnGetConvolutionForwardWorkspaceSize(h, x_, weight_, operation_, y_, algorithm, bytes);
    });
    cudnnConvolutionBwdDataAlgoPerf_t input[CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT];
    check(
        cudnnGetConvolutionBackwardDataAlgorithm_v7(h, weight_, y_, operation_, x_, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT, &count, input));
    chosen.backward_input = choose(s, d.tf32, input, count, [&](cudnnConvolutionBwdDataAlgo_t algorithm, size_t* bytes) {
      return cudnnGetConvolutionBackwardDataWorkspaceSize(h, weight_, y_, operation_, x_, algorithm, bytes);
    });
    cudnnConvolutionBwdFilterAlgoPerf_t weight[CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT];
    check(cudnnGetConvolutionBackwardFilterAlgorithm_v7(h, x_, y_, operation_, weight_, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT, &count,
                                                        weight));
    chosen.backward_weight = choose(s, d.tf32, weight, count, [&](cudnnConvolutionBwdFilterAlgo_t algorithm, size_t* bytes) {
      return cudnnGetConvolutionBackwardFilterWorkspaceSize(h, x_, y_, operation_, weight_, algorithm, bytes);
    });
    return chosen;
  }

  static void describe(const Images& images, const Shape& s) {
    check(cudnnSetTensor4dDescriptor(images, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, narrow(s.n), narrow(s.c), narrow(s.h), narrow(s.w)));
  }

  Images x_, y_;
  Filter weight_;  // K x R x S x C, our O x H x W x I
  Operation operation_;
  Algorithms algorithms_;
};

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_cudnn(Device d, const ConvolutionShape& shape) {
  if (!d.gpu) return nullptr;
  return std::make_unique<CudnnConvolution>(d, shape);
}
#else
std::unique_ptr<ConvolutionPlan> plan_convolution_cudnn(Device, const ConvolutionShape&) { return nullptr; }
#endif

}  // namespace pipecast
