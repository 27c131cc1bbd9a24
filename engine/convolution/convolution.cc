#include "engine/convolution/convolution.h"

#include <algorithm>

#include "engine/gemm.h"
#include "engine/round.h"
#include "engine/storage.h"

namespace pipecast {

std::string to_string(const ConvolutionShape& s) {
  return std::to_string(s.kernel_h) + "x" + std::to_string(s.kernel_w) + " convolution of " + to_string(s.in) + " to " +
         std::to_string(s.out_channels) + " channels (stride " + std::to_string(s.stride) + ", padding " + std::to_string(s.padding_h) +
         "x" + std::to_string(s.padding_w) + ", dilation " + std::to_string(s.dilation) + ", groups " + std::to_string(s.groups) + ")";
}

template <class T>
void ConvolutionPlanOf<T>::forward_normalised(Device, const T*, const Normalised&, const float*, T*, float*) {
  throw Error(implementation() + ": this convolution does not normalise its input");
}
template <class T>
void ConvolutionPlanOf<T>::backward_weight_normalised(Device, const T*, const Normalised&, const T*, float*, float*) {
  throw Error(implementation() + ": this convolution does not normalise its input");
}
template class ConvolutionPlanOf<float>;
template class ConvolutionPlanOf<Bfloat16>;

namespace {

void require_sound(const ConvolutionShape& s) {
  const char* wrong = nullptr;
  if (s.in.n < 0 || s.in.h < 1 || s.in.w < 1 || s.in.c < 1 || s.out_channels < 1 || s.kernel_h < 1 || s.kernel_w < 1) {
    wrong = "a size is not positive";
  } else if (s.stride < 1 || s.dilation < 1 || s.padding_h < 0 || s.padding_w < 0) {
    wrong = "stride and dilation must be at least 1, padding at least 0";
  } else if (s.groups < 1 || s.in.c % s.groups != 0 || s.out_channels % s.groups != 0) {
    wrong = "groups must divide the channels on both sides";
  } else if (s.in.h + 2 * s.padding_h < s.dilation * (s.kernel_h - 1) + 1 || s.in.w + 2 * s.padding_w < s.dilation * (s.kernel_w - 1) + 1) {
    wrong = "the kernel is larger than the padded image; use larger images or fewer strides before it";
  }
  if (wrong) throw UsageError(to_string(s) + ": " + wrong);
}

// 1x1, stride 1, no padding: with pixels as rows and channels as columns, a product of two matrices as they are stored. With images in bf16
// the weights are rounded for each call, and their gradient is added in fp32.
template <class T>
class MatrixConvolution : public ConvolutionPlanOf<T> {
 public:
  explicit MatrixConvolution(const ConvolutionShape& s) : pixels_(s.in.rows()), inputs_(s.in.c), outputs_(s.out_channels) {}

  int64_t workspace() const override { return storage_of<T> == Storage::bf16 ? floats_of(Storage::bf16, inputs_ * outputs_) : 0; }
  void forward(Device d, const T* x, const float* weight, T* y, float* workspace) override {
    gemm(d, false, true, pixels_, outputs_, inputs_, x, stored(d, weight, workspace), 0, y);
  }
  void backward_input(Device d, const T* dy, const float* weight, T* dx, bool add, float* workspace) override {
    gemm(d, false, false, pixels_, inputs_, outputs_, dy, stored(d, weight, workspace), add ? 1 : 0, dx);
  }
  void backward_weight(Device d, const T* x, const T* dy, float* dweight, float*) override {
    gemm(d, true, false, outputs_, inputs_, pixels_, dy, x, 1, dweight);
  }
  std::string implementation() const override { return "gemm, gemm, gemm"; }

 private:
  const T* stored(Device d, const float* weight, float* workspace) const {
    if constexpr (storage_of<T> == Storage::bf16) return rounded(d, inputs_ * outputs_, weight, workspace);
    else return weight;
  }

  int64_t pixels_, inputs_, outputs_;
};

bool is_matrix_product(const ConvolutionShape& s) {
  return s.kernel_h == 1 && s.kernel_w == 1 && s.stride == 1 && s.padding_h == 0 && s.padding_w == 0 && s.groups == 1;
}

// Winograd's tiles pay where most of their 4 x 4 outputs lie inside the image, and where there are enough of them to outweigh
// transforming the weights. A binary for any x86 processor has only short vectors for them, while oneDNN looks for longer ones.
bool worth_tiling([[maybe_unused]] const ConvolutionShape& s) {
#if defined(PIPECAST_ONEDNN) && defined(__x86_64__) && !defined(__AVX__)
  return false;
#else
  const int64_t tiles = s.in.n * ((s.out_h() + 3) / 4) * ((s.out_w() + 3) / 4);
  return tiles >= 32 && s.out().rows() >= tiles * 8;
#endif
}

// Pairs of an output and a tap in one direction where the tap lies inside the image, of all that there are.
double share_inside(int64_t in, int64_t out, int64_t kernel, int64_t padding, const ConvolutionShape& s) {
  int64_t inside = 0;
  for (int64_t p = 0; p < out; ++p)
    for (int64_t r = 0; r < kernel; ++r) {
      const int64_t h = p * s.stride + r * s.dilation - padding;
      inside += h >= 0 && h < in;
    }
  return double(inside) / double(out * kernel);
}

// A product for each tap pays where gathering pixels is little beside multiplying them, and where it leaves out enough that others
// compute, or rearranges less: the weights of a 1x1 convolution.
bool worth_gathering(const ConvolutionShape& s) {
  if (s.kernel_h == 1 && s.kernel_w == 1) return true;
  return std::min(s.in.c, s.out_channels) >= 32 &&
         share_inside(s.in.h, s.out_h(), s.kernel_h, s.padding_h, s) * share_inside(s.in.w, s.out_w(), s.kernel_w, s.padding_w, s) < 0.9;
}

// Too few for cuDNN's kernels of bf16.
bool has_few_channels(const ConvolutionShape& s) { return std::min(s.in.c, s.out_channels) < 64; }

std::unique_ptr<ConvolutionPlan> plan_on_gpu(Device d, const ConvolutionShape& shape) {
#ifdef PIPECAST_CUDA
  if (is_matrix_product(shape)) return std::make_unique<MatrixConvolution<float>>(shape);
#endif
  std::unique_ptr<ConvolutionPlan> plan;
  if (shape.groups > 1) plan = plan_convolution_depthwise(d, shape);
  if (!plan && !d.tf32) plan = plan_convolution_tiles(d, shape);
  if (!plan) plan = plan_convolution_cudnn(d, shape);
  return plan ? std::move(plan) : plan_convolution_tiles(d, shape);
}

std::unique_ptr<ConvolutionPlan> plan_on_host(Device d, const ConvolutionShape& shape) {
  std::unique_ptr<ConvolutionPlan> plan;
  if (worth_tiling(shape)) plan = plan_convolution_winograd(d, shape);
  if (!plan && worth_gathering(shape)) plan = plan_convolution_taps(d, shape);
  if (!plan) plan = plan_convolution_onednn(d, shape);
  return plan ? std::move(plan) : plan_convolution_depthwise(d, shape);
}

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution(Device d, const ConvolutionShape& shape) {
  require_sound(shape);
  if (!d.gpu && is_matrix_product(shape)) return std::make_unique<MatrixConvolution<float>>(shape);
  std::unique_ptr<ConvolutionPlan> plan;
  if (shape.in.n > 0) plan = d.gpu ? plan_on_gpu(d, shape) : plan_on_host(d, shape);  // the libraries refuse an empty batch
  return plan ? std::move(plan) : plan_convolution_plain(d, shape);
}

std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_bf16(Device d, const ConvolutionShape& shape) {
  require_sound(shape);
  if (!d.gpu) return nullptr;
#ifdef PIPECAST_CUDA
  if (is_matrix_product(shape)) return std::make_unique<MatrixConvolution<Bfloat16>>(shape);
#endif
  std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan = plan_convolution_depthwise_bf16(d, shape);
  if (!plan && !has_few_channels(shape)) plan = plan_convolution_cudnn_bf16(d, shape);
  return plan ? std::move(plan) : plan_convolution_tiles_bf16(d, shape);
}

}  // namespace pipecast
