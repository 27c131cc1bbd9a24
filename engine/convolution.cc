#include "engine/convolution.h"

namespace pipecast {

std::string to_string(const ConvolutionShape& s) {
  return std::to_string(s.kernel_h) + "x" + std::to_string(s.kernel_w) + " convolution of " + to_string(s.in) + " to " +
         std::to_string(s.out_channels) + " channels (stride " + std::to_string(s.stride) + ", padding " + std::to_string(s.padding) +
         ", dilation " + std::to_string(s.dilation) + ", groups " + std::to_string(s.groups) + ")";
}

namespace {

void require_sound(const ConvolutionShape& s) {
  const char* wrong = nullptr;
  if (s.in.n < 0 || s.in.h < 1 || s.in.w < 1 || s.in.c < 1 || s.out_channels < 1 || s.kernel_h < 1 || s.kernel_w < 1) {
    wrong = "a size is not positive";
  } else if (s.stride < 1 || s.dilation < 1 || s.padding < 0) {
    wrong = "stride and dilation must be at least 1, padding at least 0";
  } else if (s.groups < 1 || s.in.c % s.groups != 0 || s.out_channels % s.groups != 0) {
    wrong = "groups must divide the channels on both sides";
  } else if (s.in.h + 2 * s.padding < s.dilation * (s.kernel_h - 1) + 1 || s.in.w + 2 * s.padding < s.dilation * (s.kernel_w - 1) + 1) {
    wrong = "the kernel is larger than the padded image; use larger images or fewer strides before it";
  }
  if (wrong) throw UsageError(to_string(s) + ": " + wrong);
}

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution(Device d, const ConvolutionShape& shape) {
  require_sound(shape);
  std::unique_ptr<ConvolutionPlan> plan;
  // The libraries refuse an empty batch.
  if (shape.in.n > 0) plan = d.gpu ? plan_convolution_cudnn(d, shape) : plan_convolution_onednn(d, shape);
  return plan ? std::move(plan) : plan_convolution_plain(d, shape);
}

}  // namespace pipecast
