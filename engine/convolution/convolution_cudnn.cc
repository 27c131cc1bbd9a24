#include "engine/convolution/convolution.h"

#ifdef PIPECAST_CUDA
#include <cudnn.h>

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <vector>

#include "engine/memory.h"
#include "engine/round.h"
#endif

namespace pipecast {

#ifdef PIPECAST_CUDA
namespace {

constexpr size_t workspace_limit = size_t(256) << 20;  // bytes

void check(cudnnStatus_t status, std::source_location where = std::source_location::current()) {
  if (status != CUDNN_STATUS_SUCCESS) fail("cuDNN", cudnnGetErrorString(status), where);
}

// Whether the library knows an algorithm at all, and may say which; any other failure is an error.
bool knows(cudnnStatus_t status, std::source_location where = std::source_location::current()) {
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED) return false;
  check(status, where);
  return true;
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
  bool found = false;
};

// The first that repeats its bits, computes in fp32 (with tensor cores in tf32, or in bf16 where that is what they are given) and is
// content with little memory, of `count` candidates, fastest first.
template <class Candidate, class WorkspaceSize>
auto choose(bool tensor_cores, const Candidate* candidates, int count, const WorkspaceSize& workspace_size) {
  Choice<decltype(candidates->algo)> choice;
  for (int i = 0; i < count; ++i) {
    const Candidate& c = candidates[i];
    const bool allowed =
        c.mathType == CUDNN_FMA_MATH || c.mathType == CUDNN_DEFAULT_MATH || (tensor_cores && c.mathType == CUDNN_TENSOR_OP_MATH);
    if (c.status != CUDNN_STATUS_SUCCESS || c.determinism != CUDNN_DETERMINISTIC || !allowed) continue;
    choice.algorithm = c.algo;
    if (workspace_size(c.algo, &choice.workspace) == CUDNN_STATUS_SUCCESS && choice.workspace <= workspace_limit) {
      choice.found = true;
      return choice;
    }
  }
  return choice;
}

struct Algorithms {
  Choice<cudnnConvolutionFwdAlgo_t> forward;
  Choice<cudnnConvolutionBwdDataAlgo_t> backward_input;
  Choice<cudnnConvolutionBwdFilterAlgo_t> backward_weight;
};

// What `choose` chose for the shape, asked once in a process.
template <class ChooseAll>
Algorithms algorithms(const ConvolutionShape& s, Device d, Storage images, const ChooseAll& choose_all) {
  struct Known {
    ConvolutionShape shape;
    bool tf32;
    Storage images;
    Algorithms algorithms;
  };
  static std::mutex mutex;
  static std::vector<Known> known;
  const std::lock_guard lock(mutex);
  for (const Known& k : known)
    if (k.shape == s && k.tf32 == d.tf32 && k.images == images) return k.algorithms;
  return known.emplace_back(Known{s, d.tf32, images, choose_all()}).algorithms;
}

// A convolution as cuDNN knows it, of images, weights and gradients of one type.
class Library {
 public:
  Library(Device d, const ConvolutionShape& s, Storage images) : bf16_(images == Storage::bf16) {
    const cudnnDataType_t type = bf16_ ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    describe(x_, type, s.in);
    describe(y_, type, s.out());
    check(cudnnSetFilter4dDescriptor(weight_, type, CUDNN_TENSOR_NHWC, narrow(s.out_channels), narrow(s.in.c / s.groups),
                                     narrow(s.kernel_h), narrow(s.kernel_w)));
    const int stride = narrow(s.stride), dilation = narrow(s.dilation);
    check(cudnnSetConvolution2dDescriptor(operation_, narrow(s.padding_h), narrow(s.padding_w), stride, stride, dilation, dilation,
                                          CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
    check(cudnnSetConvolutionGroupCount(operation_, narrow(s.groups)));
    // The default may round operands to TF32, and has no tensor cores for bf16.
    check(cudnnSetConvolutionMathType(operation_, bf16_ ? CUDNN_TENSOR_OP_MATH : d.tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH));
    const bool tensor_cores = d.tf32 || bf16_;
    algorithms_ = algorithms(s, d, images, [&] { return choose_all(d, tensor_cores); });
  }

  bool found() const { return algorithms_.forward.found && algorithms_.backward_input.found && algorithms_.backward_weight.found; }
  int64_t workspace() const {  // floats
    const size_t bytes =
        std::max({algorithms_.forward.workspace, algorithms_.backward_input.workspace, algorithms_.backward_weight.workspace});
    return int64_t((bytes + sizeof(float) - 1) / sizeof(float));
  }

  void forward(Device d, const void* x, const void* weight, void* y, void* workspace) {
    check(cudnnConvolutionForward(handle(d), &one, x_, x, weight_, weight, operation_, algorithms_.forward.algorithm, workspace,
                                  algorithms_.forward.workspace, &zero, y_, y));
  }
  void backward_input(Device d, const void* dy, const void* weight, void* dx, bool add, void* workspace) {
    check(cudnnConvolutionBackwardData(handle(d), &one, weight_, weight, y_, dy, operation_, algorithms_.backward_input.algorithm,
                                       workspace, algorithms_.backward_input.workspace, add ? &one : &zero, x_, dx));
  }
  void backward_weight(Device d, const void* x, const void* dy, void* dweight, void* workspace) {  // added to what is there
    check(cudnnConvolutionBackwardFilter(handle(d), &one, x_, x, y_, dy, operation_, algorithms_.backward_weight.algorithm, workspace,
                                         algorithms_.backward_weight.workspace, &one, weight_, dweight));
  }

  std::string names() const {
    const std::string weight = bf16_ ? "tiles" : "cudnn:" + std::to_string(algorithms_.backward_weight.algorithm);
    return "cudnn:" + std::to_string(algorithms_.forward.algorithm) + ", cudnn:" + std::to_string(algorithms_.backward_input.algorithm) +
           ", " + weight;
  }

 private:
  static constexpr float zero = 0, one = 1;

  Algorithms choose_all(Device d, bool tensor_cores) const {
    const cudnnHandle_t h = handle(d);
    Algorithms chosen;
    int count = 0;
    cudnnConvolutionFwdAlgoPerf_t forward[CUDNN_CONVOLUTION_FWD_ALGO_COUNT];
    if (!knows(cudnnGetConvolutionForwardAlgorithm_v7(h, x_, weight_, operation_, y_, CUDNN_CONVOLUTION_FWD_ALGO_COUNT, &count, forward)))
      return chosen;
    chosen.forward = choose(tensor_cores, forward, count, [&](cudnnConvolutionFwdAlgo_t algorithm, size_t* bytes) {
      return cudnnGetConvolutionForwardWorkspaceSize(h, x_, weight_, operation_, y_, algorithm, bytes);
    });
    cudnnConvolutionBwdDataAlgoPerf_t input[CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT];
    if (!knows(cudnnGetConvolutionBackwardDataAlgorithm_v7(h, weight_, y_, operation_, x_, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT, &count,
                                                           input)))
      return chosen;
    chosen.backward_input = choose(tensor_cores, input, count, [&](cudnnConvolutionBwdDataAlgo_t algorithm, size_t* bytes) {
      return cudnnGetConvolutionBackwardDataWorkspaceSize(h, weight_, y_, operation_, x_, algorithm, bytes);
    });
    chosen.backward_weight.found = bf16_;
    if (bf16_) return chosen;  // this gradient is left to tiles: no workspace for it
    cudnnConvolutionBwdFilterAlgoPerf_t weight[CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT];
    if (!knows(cudnnGetConvolutionBackwardFilterAlgorithm_v7(h, x_, y_, operation_, weight_, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT,
                                                             &count, weight)))
      return chosen;
    chosen.backward_weight = choose(tensor_cores, weight, count, [&](cudnnConvolutionBwdFilterAlgo_t algorithm, size_t* bytes) {
      return cudnnGetConvolutionBackwardFilterWorkspaceSize(h, x_, y_, operation_, weight_, algorithm, bytes);
    });
    return chosen;
  }

  static void describe(const Images& images, cudnnDataType_t type, const Shape& s) {
    check(cudnnSetTensor4dDescriptor(images, CUDNN_TENSOR_NHWC, type, narrow(s.n), narrow(s.c), narrow(s.h), narrow(s.w)));
  }

  bool bf16_;
  Images x_, y_;
  Filter weight_;  // K x R x S x C, our O x H x W x I
  Operation operation_;
  Algorithms algorithms_;
};

class CudnnConvolution : public ConvolutionPlan {
 public:
  CudnnConvolution(Device d, const ConvolutionShape& s) : library_(d, s, Storage::fp32) {}
  bool found() const { return library_.found(); }
  int64_t workspace() const override { return library_.workspace(); }
  void forward(Device d, const float* x, const float* weight, float* y, float* workspace) override {
    library_.forward(d, x, weight, y, workspace);
  }
  void backward_input(Device d, const float* dy, const float* weight, float* dx, bool add, float* workspace) override {
    library_.backward_input(d, dy, weight, dx, add, workspace);
  }
  void backward_weight(Device d, const float* x, const float* dy, float* dweight, float* workspace) override {
    library_.backward_weight(d, x, dy, dweight, workspace);
  }
  std::string implementation() const override { return library_.names(); }

 private:
  Library library_;
};

// Weights are rounded for each call; they are small beside the images. Their gradient is left to tiles, which add it in fp32; cuDNN returns
// it in bf16.
class CudnnConvolutionBf16 : public ConvolutionPlanOf<Bfloat16> {
 public:
  CudnnConvolutionBf16(Device d, const ConvolutionShape& s)
      : library_(d, s, Storage::bf16), tiles_(plan_convolution_tiles_bf16(d, s)), weights_(s.weight_count()) {}
  bool found() const { return library_.found() && tiles_; }
  int64_t workspace() const override { return std::max(library_.workspace() + weight_floats(), tiles_ ? tiles_->workspace() : 0); }
  void forward(Device d, const Bfloat16* x, const float* weight, Bfloat16* y, float* workspace) override {
    library_.forward(d, x, rounded(d, weights_, weight, workspace), y, workspace + weight_floats());
  }
  void backward_input(Device d, const Bfloat16* dy, const float* weight, Bfloat16* dx, bool add, float* workspace) override {
    library_.backward_input(d, dy, rounded(d, weights_, weight, workspace), dx, add, workspace + weight_floats());
  }
  void backward_weight(Device d, const Bfloat16* x, const Bfloat16* dy, float* dweight, float* workspace) override {
    tiles_->backward_weight(d, x, dy, dweight, workspace);
  }
  std::string implementation() const override { return library_.names(); }

 private:
  int64_t weight_floats() const { return aligned(floats_of(Storage::bf16, weights_)); }

  Library library_;
  std::unique_ptr<ConvolutionPlanOf<Bfloat16>> tiles_;
  int64_t weights_;
};

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_cudnn(Device d, const ConvolutionShape& shape) {
  if (!d.gpu) return nullptr;
  auto plan = std::make_unique<CudnnConvolution>(d, shape);
  return plan->found() ? std::move(plan) : nullptr;
}
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_cudnn_bf16(Device d, const ConvolutionShape& shape) {
  auto plan = std::make_unique<CudnnConvolutionBf16>(d, shape);
  return plan->found() ? std::move(plan) : nullptr;
}
#else
std::unique_ptr<ConvolutionPlan> plan_convolution_cudnn(Device, const ConvolutionShape&) { return nullptr; }
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_cudnn_bf16(Device, const ConvolutionShape&) { return nullptr; }
#endif

}  // namespace pipecast
