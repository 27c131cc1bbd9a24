#include "engine/convolution/convolution.h"
#include "engine/launch.h"

// The definition, written as three sums. x: N x H x W x I, weight: O x R x S x I/G, y: N x P x Q x O, with
//
//   y[n,p,q,o] = sum over r, s, i of x[n, p * stride + r * dilation - padding_h, q * stride + s * dilation - padding_w, g * I/G + i] *
//   weight[o,r,s,i]
//
// where g = o / (O/G) is the output's group, and x is zero outside the image. Partial sums over a run of neighbours keep
// the rounding error of a long sum small.

namespace pipecast {

namespace {

// One output element each.
struct ConvolutionForward {
  ConvolutionShape s;
  const float* x;
  const float* weight;
  float* y;

  HD void operator()(int64_t index) const {
    const int64_t width = s.in.c / s.groups, out_h = s.out_h(), out_w = s.out_w();
    const int64_t o = index % s.out_channels, q = index / s.out_channels % out_w, p = index / s.out_channels / out_w % out_h,
                  n = index / s.out_channels / out_w / out_h;
    const int64_t first = o / (s.out_channels / s.groups) * width;
    float sum = 0;
    for (int64_t r = 0; r < s.kernel_h; ++r) {
      const int64_t h = p * s.stride + r * s.dilation - s.padding_h;
      if (h < 0 || h >= s.in.h) continue;
      for (int64_t t = 0; t < s.kernel_w; ++t) {
        const int64_t w = q * s.stride + t * s.dilation - s.padding_w;
        if (w < 0 || w >= s.in.w) continue;
        const float* in = x + ((n * s.in.h + h) * s.in.w + w) * s.in.c + first;
        const float* tap = weight + ((o * s.kernel_h + r) * s.kernel_w + t) * width;
        float part = 0;
        for (int64_t i = 0; i < width; ++i) part += in[i] * tap[i];
        sum += part;
      }
    }
    y[index] = sum;
  }
};

// One input element each: gathers from every output that it went into, so that no two threads add to the same place.
struct ConvolutionBackwardInput {
  ConvolutionShape s;
  const float* dy;
  const float* weight;
  float* dx;
  bool add;

  HD void operator()(int64_t index) const {
    const int64_t width = s.in.c / s.groups, out_width = s.out_channels / s.groups, out_h = s.out_h(), out_w = s.out_w();
    const int64_t c = index % s.in.c, w = index / s.in.c % s.in.w, h = index / s.in.c / s.in.w % s.in.h,
                  n = index / s.in.c / s.in.w / s.in.h;
    const int64_t group = c / width, i = c % width;
    float sum = 0;
    for (int64_t r = 0; r < s.kernel_h; ++r) {
      const int64_t above = h + s.padding_h - r * s.dilation, p = above / s.stride;
      if (above < 0 || above % s.stride != 0 || p >= out_h) continue;
      for (int64_t t = 0; t < s.kernel_w; ++t) {
        const int64_t left = w + s.padding_w - t * s.dilation, q = left / s.stride;
        if (left < 0 || left % s.stride != 0 || q >= out_w) continue;
        const float* out = dy + ((n * out_h + p) * out_w + q) * s.out_channels + group * out_width;
        const float* tap = weight + ((group * out_width * s.kernel_h + r) * s.kernel_w + t) * width + i;
        float part = 0;
        for (int64_t o = 0; o < out_width; ++o) part += out[o] * tap[o * s.kernel_h * s.kernel_w * width];
        sum += part;
      }
    }
    dx[index] = add ? dx[index] + sum : sum;
  }
};

// One weight each.
struct ConvolutionBackwardWeight {
  ConvolutionShape s;
  const float* x;
  const float* dy;
  float* dweight;

  HD void operator()(int64_t index) const {
    const int64_t width = s.in.c / s.groups, out_h = s.out_h(), out_w = s.out_w();
    const int64_t i = index % width, t = index / width % s.kernel_w, r = index / width / s.kernel_w % s.kernel_h,
                  o = index / width / s.kernel_w / s.kernel_h;
    const int64_t c = o / (s.out_channels / s.groups) * width + i;
    float sum = 0;
    for (int64_t n = 0; n < s.in.n; ++n) {
      float image = 0;
      for (int64_t p = 0; p < out_h; ++p) {
        const int64_t h = p * s.stride + r * s.dilation - s.padding_h;
        if (h < 0 || h >= s.in.h) continue;
        float row = 0;
        for (int64_t q = 0; q < out_w; ++q) {
          const int64_t w = q * s.stride + t * s.dilation - s.padding_w;
          if (w < 0 || w >= s.in.w) continue;
          row += x[((n * s.in.h + h) * s.in.w + w) * s.in.c + c] * dy[((n * out_h + p) * out_w + q) * s.out_channels + o];
        }
        image += row;
      }
      sum += image;
    }
    dweight[index] += sum;
  }
};

class PlainConvolution : public ConvolutionPlan {
 public:
  explicit PlainConvolution(const ConvolutionShape& shape) : shape_(shape) {}

  int64_t workspace() const override { return 0; }
  void forward(Device d, const float* x, const float* weight, float* y, float*) override {
    map(d, shape_.out().count(), ConvolutionForward{shape_, x, weight, y});
  }
  void backward_input(Device d, const float* dy, const float* weight, float* dx, bool add, float*) override {
    map(d, shape_.in.count(), ConvolutionBackwardInput{shape_, dy, weight, dx, add});
  }
  void backward_weight(Device d, const float* x, const float* dy, float* dweight, float*) override {
    map(d, shape_.weight_count(), ConvolutionBackwardWeight{shape_, x, dy, dweight});
  }
  std::string implementation() const override { return "plain, plain, plain"; }

 private:
  ConvolutionShape shape_;
};

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_plain(Device, const ConvolutionShape& shape) {
  return std::make_unique<PlainConvolution>(shape);
}

}  // namespace pipecast
