#pragma once
// Two-dimensional convolution over NHWC images with OHWI weights. On the host a matrix product where it is one, Winograd's algorithm or a
// matrix product for each tap where they pay, else oneDNN; on the GPU a matrix product where it is one, tiles of our own in fp32 and where
// channels are few, else cuDNN; on both a kernel of our own for depthwise ones; and a plain loop, the oracle in tests and the fallback.
// Weights and their gradients are fp32; images, on the GPU, also bf16.
#include <memory>

#include "engine/device.h"
#include "engine/tensor.h"

namespace pipecast {

struct ConvolutionShape {
  Shape in;  // n, h, w, input channels
  int64_t out_channels = 1, kernel_h = 1, kernel_w = 1;
  int64_t stride = 1;
  int64_t padding_h = 0, padding_w = 0;  // zeros, on both sides
  int64_t dilation = 1, groups = 1;

  constexpr int64_t out_h() const { return (in.h + 2 * padding_h - dilation * (kernel_h - 1) - 1) / stride + 1; }
  constexpr int64_t out_w() const { return (in.w + 2 * padding_w - dilation * (kernel_w - 1) - 1) / stride + 1; }
  Shape out() const { return {in.n, out_h(), out_w(), out_channels}; }
  // O x H x W x (I / groups)
  int64_t weight_count() const { return out_channels * kernel_h * kernel_w * (in.c / groups); }
  double flops() const { return 2.0 * double(out().count()) * double(kernel_h * kernel_w * (in.c / groups)); }  // of one direction
  bool operator==(const ConvolutionShape&) const = default;
};
std::string to_string(const ConvolutionShape&);  // "3x3 convolution of 8x32x32x16 to 32 channels (stride 2, ...)"

// One shape, planned once, for as many threads as the calling thread may use then (see set_threads). The three calls share
// `workspace()` floats that the caller provides. A plan serves one thread at a time. T: what images are stored in.
template <class T>
class ConvolutionPlanOf {
 public:
  virtual ~ConvolutionPlanOf() = default;
  virtual int64_t workspace() const = 0;
  virtual void forward(Device, const T* x, const float* weight, T* y, float* workspace) = 0;  // y assigned
  // dx assigned, or added to
  virtual void backward_input(Device, const T* dy, const float* weight, T* dx, bool add, float* workspace) = 0;
  virtual void backward_weight(Device, const T* x, const T* dy, float* dweight, float* workspace) = 0;  // dweight accumulated
  // Whether the input may be a Normalised one, which is then made as x is read and never written. Around the image it is zero too.
  virtual bool takes_normalised() const { return false; }
  virtual void forward_normalised(Device, const T* x, const Normalised&, const float* weight, T* y, float* workspace);
  virtual void backward_weight_normalised(Device, const T* x, const Normalised&, const T* dy, float* dweight, float* workspace);
  // The library's names of the three implementations it chose: a test refuses oneDNN's "ref".
  virtual std::string implementation() const = 0;
};
using ConvolutionPlan = ConvolutionPlanOf<float>;

// The best plan at hand for the device. Throws UsageError for a shape that cannot be, Error where the library refuses it.
std::unique_ptr<ConvolutionPlan> plan_convolution(Device, const ConvolutionShape&);
// The same with images in bf16. The libraries multiply weights that are rounded to bf16. Null on the host, and where there is none for the
// shape.
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_bf16(Device, const ConvolutionShape&);

std::unique_ptr<ConvolutionPlan> plan_convolution_plain(Device, const ConvolutionShape&);  // any device, kernels of our own
// Host; null unless 3x3, stride 1, the same padding of 2 at most in both directions, no dilation or groups, and channels that fill whole
// vectors.
std::unique_ptr<ConvolutionPlan> plan_convolution_winograd(Device, const ConvolutionShape&);
// Any device; null unless 3x3 with one input and one output channel in each group, and no dilation.
std::unique_ptr<ConvolutionPlan> plan_convolution_depthwise(Device, const ConvolutionShape&);
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_depthwise_bf16(Device, const ConvolutionShape&);
std::unique_ptr<ConvolutionPlan> plan_convolution_taps(Device, const ConvolutionShape&);    // host; null for groups
std::unique_ptr<ConvolutionPlan> plan_convolution_onednn(Device, const ConvolutionShape&);  // host; null where oneDNN is absent
// GPU; null for groups, and for kernels of more than 64 taps
std::unique_ptr<ConvolutionPlan> plan_convolution_tiles(Device, const ConvolutionShape&);
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_tensor_cores(Device, const ConvolutionShape&);
// GPU; null where cuDNN is absent or has no algorithm that repeats its bits
std::unique_ptr<ConvolutionPlan> plan_convolution_cudnn(Device, const ConvolutionShape&);
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_cudnn_bf16(Device, const ConvolutionShape&);

}  // namespace pipecast
