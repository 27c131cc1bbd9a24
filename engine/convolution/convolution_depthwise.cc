// Depthwise 3x3 convolutions: every channel has a filter of its own, groups = input channels = output channels.
//
// There are 9 products for each element that is read, so memory sets the speed: each thread takes some neighbouring channels of a pixel
// together. Filters are turned for that, from C x 3 x 3 to 3 x 3 x C. The gradient of the input is such a convolution too, with the filters
// turned by half a circle: forward reads x at p * stride - padding + r, the gradient reads dy at (h - (2 - padding) + r) / stride where
// that is a whole number.
#include <algorithm>
#include <limits>

#include "engine/convolution/convolution.h"
#include "engine/launch.h"
#include "engine/pack.h"
#include "engine/storage.h"

namespace pipecast {
namespace {

constexpr int taps = 9;

// W neighbouring channels. On the host a register, where g++ and nvcc's own host compiler know the same extension.
template <int W>
struct Lanes {
#ifdef __CUDA_ARCH__
  float v[W];
#else
  typedef float Register __attribute__((vector_size(W * sizeof(float))));
  Register v;
#endif
};

#if defined(__AVX512F__)
constexpr int host_lanes = 16;
#elif defined(__AVX__)
constexpr int host_lanes = 8;
#else
constexpr int host_lanes = 4;
#endif

// A GPU reads them at once, where map() sees to it that they are aligned.
template <int W, class T>
HD Lanes<W> read(const T* from) {
  Lanes<W> lanes;
#ifdef __CUDA_ARCH__
  const Pack<T, W> pack = load<W>(from);
  each<W>([&](int k) { lanes.v[k] = pack.v[k]; });
#else
  if constexpr (storage_of<T> == Storage::fp32) __builtin_memcpy(&lanes, from, sizeof lanes);
  else
    for (int k = 0; k < W; ++k) lanes.v[k] = from[k];
#endif
  return lanes;
}
template <int W, class T>
HD void write(T* to, const Lanes<W>& lanes) {
#ifdef __CUDA_ARCH__
  Pack<T, W> pack;
  each<W>([&](int k) { pack.v[k] = lanes.v[k]; });
  store(to, pack);
#else
  if constexpr (storage_of<T> == Storage::fp32) __builtin_memcpy(to, &lanes, sizeof lanes);
  else
    for (int k = 0; k < W; ++k) to[k] = lanes.v[k];
#endif
}
// sum += a * b
template <int W>
HD void add_product(Lanes<W>& sum, const Lanes<W>& a, const Lanes<W>& b) {
#ifdef __CUDA_ARCH__
  for (int k = 0; k < W; ++k) sum.v[k] += a.v[k] * b.v[k];
#else
  sum.v += a.v * b.v;
#endif
}
template <int W>
HD void add_to(Lanes<W>& sum, const Lanes<W>& more) {
#ifdef __CUDA_ARCH__
  for (int k = 0; k < W; ++k) sum.v[k] += more.v[k];
#else
  sum.v += more.v;
#endif
}

// turned[tap][c] = weight[c][tap], or the last tap first.
struct TurnFilters {
  const float* weight;
  float* turned;
  int64_t channels;
  bool half_circle;
  HD void operator()(int64_t tap, int64_t c) const { turned[tap * channels + c] = weight[c * taps + (half_circle ? taps - 1 - tap : tap)]; }
};

// to[n,p,q,c] (+)= sum over r, s of from[n, (p * step - shift_h + r) / divisor, (q * step - shift_w + s) / divisor, c] * filters[r,s,c],
// over the places that are whole numbers inside the image. Places are counted in 32 bits, since a GPU divides them faster.
template <class T>
struct Gather {
  const T* from;
  const float* filters;  // 3 x 3 x C
  T* to;
  int from_h, from_w, to_h, to_w;
  int64_t channels;
  int step, shift_h, shift_w, divisor;
  bool add;

  // Pixel q of row `row` = n * to_h + p of all images, channels [c, c + W).
  template <int W>
  HD void pixel(int row, int q, int64_t c) const {
    const int n = row / to_h, top = row % to_h * step - shift_h, left = q * step - shift_w;
    const int64_t below = from_w * channels;
    const T* image = from + n * from_h * below + c;
    Lanes<W> sum = {};
    if (divisor == 1 && top >= 0 && left >= 0 && top + 3 <= from_h && left + 3 <= from_w) {
      const T* first = image + top * below + left * channels;
      each<taps>([&](int tap) {
        add_product<W>(sum, read<W>(first + tap / 3 * below + tap % 3 * channels), read<W>(filters + tap * channels + c));
      });
    } else {
      for (int tap = 0; tap < taps; ++tap) {
        const int y = top + tap / 3, x = left + tap % 3, h = y / divisor, w = x / divisor;
        if (y < 0 || x < 0 || h * divisor != y || w * divisor != x || h >= from_h || w >= from_w) continue;
        add_product<W>(sum, read<W>(image + h * below + w * channels), read<W>(filters + tap * channels + c));
      }
    }
    T* out = to + (int64_t(row) * to_w + q) * channels + c;
    if (add) add_to<W>(sum, read<W>(out));
    write<W>(out, sum);
  }

  static constexpr int width = 4;  // on a GPU
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    pixel<W>(int(r) / to_w, int(r) % to_w, c);
  }
};

// The gradient of the filters: products of a pixel of dy with the 9 pixels of x that it was made of.
template <class T>
struct Correlate {
  const T *x, *dy;
  float* dweight;
  int in_h, in_w, out_h, out_w;
  int64_t channels;
  int stride, padding_h, padding_w;

  // sums[tap] += the products of pixel q of row `row` = n * out_h + p of dy, channels [c, c + W).
  template <int W>
  HD void pixel(int row, int q, int64_t c, Lanes<W> (&sums)[taps]) const {
    const int n = row / out_h, top = row % out_h * stride - padding_h, left = q * stride - padding_w;
    const Lanes<W> gradient = read<W>(dy + (int64_t(row) * out_w + q) * channels + c);
    const int64_t below = in_w * channels;
    const T* first = x + (int64_t(n) * in_h + top) * below + left * channels + c;
    const bool inside = top >= 0 && left >= 0 && top + 3 <= in_h && left + 3 <= in_w;
    each<taps>([&](int tap) {
      const int h = top + tap / 3, w = left + tap % 3;
      if (inside || (h >= 0 && h < in_h && w >= 0 && w < in_w))
        add_product<W>(sums[tap], gradient, read<W>(first + tap / 3 * below + tap % 3 * channels));
    });
  }

  // For columns<9>(), on a GPU.
  HD Sums<taps> operator()(int64_t r, int64_t c) const {
    Lanes<1> products[taps] = {};
    pixel<1>(int(r) / out_w, int(r) % out_w, c, products);
    Sums<taps> sums;
    for (int tap = 0; tap < taps; ++tap) sums.v[tap] = products[tap].v[0];
    return sums;
  }
  HD void done(int64_t c, const Sums<taps>& sums) const {
    for (int tap = 0; tap < taps; ++tap) dweight[c * taps + tap] += sums.v[tap];
  }
};

// f(c) with a whole register of channels, then for each channel that is left over.
template <class F>
void each_lanes(int64_t channels, const F& f) {
  int64_t c = 0;
  for (; c + host_lanes <= channels; c += host_lanes) f.template operator()<host_lanes>(c);
  for (; c < channels; ++c) f.template operator()<1>(c);
}

template <class T>
void gather_on_host(const Gather<T>& f, int64_t rows) {
  parallel(rows, std::max<int64_t>(1, (1 << 12) / (f.to_w * f.channels)), [f](int64_t begin, int64_t end) {
    for (int row = int(begin); row < int(end); ++row)
      for (int q = 0; q < f.to_w; ++q) each_lanes(f.channels, [&]<int W>(int64_t c) { f.template pixel<W>(row, q, c); });
  });
}

// The rows of all images are cut into chunks, whose number depends on the sizes alone. partial: chunks x 3 x 3 x C.
template <class T>
void correlate_on_host(const Correlate<T>& f, int64_t rows, int64_t chunks, float* partial) {
  parallel(chunks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk)
      each_lanes(f.channels, [&]<int W>(int64_t c) {
        Lanes<W> sums[taps] = {};
        for (int row = int(rows * chunk / chunks); row < int(rows * (chunk + 1) / chunks); ++row)
          for (int q = 0; q < f.out_w; ++q) f.template pixel<W>(row, q, c, sums);
        for (int tap = 0; tap < taps; ++tap) write<W>(partial + (chunk * taps + tap) * f.channels + c, sums[tap]);
      });
  });
  for (int64_t c = 0; c < f.channels; ++c) {
    Sums<taps> sums{};
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int tap = 0; tap < taps; ++tap) sums.v[tap] += partial[(chunk * taps + tap) * f.channels + c];
    f.done(c, sums);
  }
}

template <class T>
class DepthwiseConvolution : public ConvolutionPlanOf<T> {
 public:
  explicit DepthwiseConvolution(const ConvolutionShape& s)
      : in_(s.in),
        out_(s.out()),
        stride_(int(s.stride)),
        padding_h_(int(s.padding_h)),
        padding_w_(int(s.padding_w)),
        chunks_(std::clamp<int64_t>(out_.rows() / 256, 1, std::min<int64_t>(32, out_.n * out_.h))) {}

  int64_t workspace() const override { return chunks_ * taps * in_.c; }
  void forward(Device d, const T* x, const float* weight, T* y, float* workspace) override {
    map(d, taps, in_.c, TurnFilters{weight, workspace, in_.c, false});
    gather(d, {x, workspace, y, int(in_.h), int(in_.w), int(out_.h), int(out_.w), in_.c, stride_, padding_h_, padding_w_, 1, false}, out_);
  }
  void backward_input(Device d, const T* dy, const float* weight, T* dx, bool add, float* workspace) override {
    map(d, taps, in_.c, TurnFilters{weight, workspace, in_.c, true});
    gather(d, {dy, workspace, dx, int(out_.h), int(out_.w), int(in_.h), int(in_.w), in_.c, 1, 2 - padding_h_, 2 - padding_w_, stride_, add},
           in_);
  }
  void backward_weight(Device d, const T* x, const T* dy, float* dweight, float* workspace) override {
    const Correlate<T> f{x, dy, dweight, int(in_.h), int(in_.w), int(out_.h), int(out_.w), in_.c, stride_, padding_h_, padding_w_};
    if (d.gpu) columns<taps>(d, out_.rows(), in_.c, f);
    else correlate_on_host(f, out_.n * out_.h, chunks_, workspace);
  }
  std::string implementation() const override { return "depthwise, depthwise, depthwise"; }

 private:
  static void gather(Device d, const Gather<T>& f, const Shape& to) {
    if (d.gpu) map(d, to.rows(), to.c, f);
    else gather_on_host(f, to.n * to.h);
  }

  Shape in_, out_;
  int stride_, padding_h_, padding_w_;
  int64_t chunks_;
};

template <class T>
std::unique_ptr<ConvolutionPlanOf<T>> plan_depthwise(const ConvolutionShape& s) {
  const bool suits = s.groups == s.in.c && s.out_channels == s.in.c && s.kernel_h == 3 && s.kernel_w == 3 && s.dilation == 1 && s.in.n > 0;
  constexpr int64_t most = std::numeric_limits<int32_t>::max() / 4;
  const bool counts = std::max({s.in.rows(), s.out().rows(), s.stride * s.in.h, s.stride * s.in.w, s.padding_h, s.padding_w}) < most;
  return suits && counts ? std::make_unique<DepthwiseConvolution<T>>(s) : nullptr;
}

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_depthwise(Device, const ConvolutionShape& s) { return plan_depthwise<float>(s); }
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_depthwise_bf16(Device, const ConvolutionShape& s) {
  return plan_depthwise<Bfloat16>(s);
}

}  // namespace pipecast
