#pragma once
// What the kernels of convolution_tiles.cc (fp32) and convolution_tensor_cores.cc (bf16) share: convolutions on the GPU as products of
// matrices that are never written down ("implicit GEMM"). A block computes a tile of the result and gathers what it multiplies from the
// images into shared memory, some products of the sum at a time. Every sum has a fixed order.
//
//   forward           rows: pixels of y   columns: output channels   sum over: taps x input channels
//   backward_input    rows: pixels of x   columns: input channels    sum over: taps x output channels
//   backward_weight   rows: output channels   columns: taps x input channels   sum over: pixels of y
//
// A tap is a place (r, s) of the kernel. With a stride of 2 the pixels of x fall into 2 x 2 phases, each of which meets only some of the
// taps.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "engine/convolution/convolution.h"
#include "engine/launch.h"

#ifdef PIPECAST_DEVICE_CODE
namespace pipecast::implicit_gemm {

constexpr int block_threads = 256;

// forward and backward_input: out[row, column] = sum over taps and channels of source[row's place + tap, channel] * weight
constexpr int most_taps = 64;

struct Tap {
  int16_t h, w;   // added to the row's place in the source
  int16_t index;  // of the weights: r * kernel_w + s
};

template <class T>
struct Gather {
  const T* source;  // n x source_h x source_w x channels
  int source_h, source_w, channels;
  const float* weight;  // O x taps x I
  int kernel_taps, inputs;
  T* out;  // n x out_h x out_w x columns
  int out_h, out_w, columns;
  bool add;
  // The rows: n x rows_h x rows_w. Row (n, i, j) begins at (i, j) * source_step in the source, and is pixel (i, j) * out_step + phase of
  // out.
  int rows, rows_h, rows_w, source_step, out_step, phase_h, phase_w;
  int taps;
  Tap tap[most_taps];

  HD const float* weights_of(int column, int channel, int tap_index, bool backward) const {
    const int o = backward ? channel : column, i = backward ? column : channel;
    return weight + (int64_t(o) * kernel_taps + tap_index) * inputs + i;
  }
};

// A row of a Gather as its threads need it.
struct Place {
  int image, h, w;  // image: n * source_h; h: out of every image where the row is none
};

template <class T>
HD Place place_of(const Gather<T>& g, int row) {
  if (row >= g.rows) return {0, INT32_MIN / 2, 0};
  return {row / g.rows_w / g.rows_h * g.source_h, row / g.rows_w % g.rows_h * g.source_step, row % g.rows_w * g.source_step};
}

// backward_weight: sums[row, column] = sum over some pixels of dy[pixel, row] * x[pixel moved by the column's tap, channel]
template <class T>
struct Correlate {
  const T* x;
  const T* dy;
  int in_h, in_w, inputs, out_h, out_w, outputs, kernel_w, taps, stride, padding_h, padding_w, dilation;
  int pixels, chunk;  // of y; those of one split, a multiple of every tile's depth
  float* sums;        // splits x weights
};

// Where four neighbouring columns, or one, are in the images of x.
struct Column {
  int h, w, channel;  // h, w: added to an output pixel's place; h out of every image where the column is none
};

template <class T>
HD Column column_of(const Correlate<T>& c, int column) {
  const int tap = column / c.inputs;
  if (tap >= c.taps) return {INT32_MIN / 2, 0, 0};
  return {tap / c.kernel_w * c.dilation - c.padding_h, tap % c.kernel_w * c.dilation - c.padding_w, column % c.inputs};
}

// dweight += the splits' sums.
struct AddSplits {
  const float* sums;
  float* dweight;
  int64_t weights;
  HD Sums<1> operator()(int64_t split, int64_t weight) const { return {{sums[split * weights + weight]}}; }
  HD void done(int64_t weight, const Sums<1>& sum) const { dweight[weight] += sum.v[0]; }
};

// For tiles of Rows x Columns.
template <int Rows, int Columns, class T>
void launch_gather(Device d, void (*kernel)(Gather<T>), const Gather<T>& g) {
  const dim3 grid(unsigned((g.rows + Rows - 1) / Rows), unsigned((g.columns + Columns - 1) / Columns));
  launch(kernel, grid, dim3(block_threads), d.stream, g);
}

// Kernels has
//   name
//   group   channels come in so many, or `whole` is false
//   depth   the pixels of a split are a multiple of it
//   gather<backward>(Device, const Gather<T>&), which calls launch_gather
//   correlate<Whole, Rows>(): the kernel of the gradient of the weights, for tiles of Rows x 64
template <class T, class Kernels>
class Convolution : public ConvolutionPlanOf<T> {
 public:
  explicit Convolution(const ConvolutionShape& shape) : shape_(shape) {
    // Enough blocks for a large GPU, each with some steps to make.
    const int64_t pixels = shape.out().rows(), depth = Kernels::depth;
    const int64_t tiles = (shape.out_channels + tile_rows() - 1) / tile_rows() * ((row_length() + 63) / 64);
    splits_ = std::clamp<int64_t>(512 / tiles, 1, std::max<int64_t>(1, pixels / (4 * depth)));
    chunk_ = ((pixels + splits_ - 1) / splits_ + depth - 1) / depth * depth;
    splits_ = (pixels + chunk_ - 1) / chunk_;
  }

  int64_t workspace() const override { return splits_ * shape_.weight_count(); }

  void forward(Device d, const T* x, const float* weight, T* y, float*) override {
    Gather<T> g = make(x, shape_.in, weight, y, shape_.out(), false);
    g.rows = int(shape_.out().rows()), g.rows_h = int(shape_.out_h()), g.rows_w = int(shape_.out_w());
    g.source_step = int(shape_.stride), g.out_step = 1, g.phase_h = g.phase_w = 0;
    for (int r = 0; r < shape_.kernel_h; ++r)
      for (int s = 0; s < shape_.kernel_w; ++s)
        add_tap(g, r * shape_.dilation - shape_.padding_h, s * shape_.dilation - shape_.padding_w, r, s);
    Kernels::template gather<false>(d, g);
  }

  void backward_input(Device d, const T* dy, const float* weight, T* dx, bool add, float*) override {
    const int stride = int(shape_.stride);
    for (int phase_h = 0; phase_h < stride; ++phase_h)
      for (int phase_w = 0; phase_w < stride; ++phase_w) {
        Gather<T> g = make(dy, shape_.out(), weight, dx, shape_.in, add);
        g.rows_h = (int(shape_.in.h) - phase_h + stride - 1) / stride, g.rows_w = (int(shape_.in.w) - phase_w + stride - 1) / stride;
        if (g.rows_h <= 0 || g.rows_w <= 0) continue;
        g.rows = int(shape_.in.n) * g.rows_h * g.rows_w;
        g.source_step = 1, g.out_step = stride, g.phase_h = phase_h, g.phase_w = phase_w;
        // Pixel h of x met pixel p of y where p * stride = h + padding - r * dilation.
        for (int r = 0; r < shape_.kernel_h; ++r)
          for (int s = 0; s < shape_.kernel_w; ++s) {
            const int64_t h = phase_h + shape_.padding_h - r * shape_.dilation, w = phase_w + shape_.padding_w - s * shape_.dilation;
            if (h % stride == 0 && w % stride == 0) add_tap(g, h / stride, w / stride, r, s);
          }
        Kernels::template gather<true>(d, g);
      }
  }

  void backward_weight(Device d, const T* x, const T* dy, float* dweight, float* workspace) override {
    Correlate<T> c;
    c.x = x, c.dy = dy, c.sums = workspace;
    c.in_h = int(shape_.in.h), c.in_w = int(shape_.in.w), c.inputs = int(shape_.in.c);
    c.out_h = int(shape_.out_h()), c.out_w = int(shape_.out_w()), c.outputs = int(shape_.out_channels);
    c.kernel_w = int(shape_.kernel_w), c.taps = int(shape_.kernel_h * shape_.kernel_w);
    c.stride = int(shape_.stride), c.padding_h = int(shape_.padding_h), c.padding_w = int(shape_.padding_w),
    c.dilation = int(shape_.dilation);
    c.pixels = int(shape_.out().rows()), c.chunk = int(chunk_);
    const dim3 grid(unsigned((row_length() + 63) / 64), unsigned((c.outputs + tile_rows() - 1) / tile_rows()), unsigned(splits_));
    const auto kernel = !whole()            ? Kernels::template correlate<false, 16>()
                        : tile_rows() == 16 ? Kernels::template correlate<true, 16>()
                        : tile_rows() == 32 ? Kernels::template correlate<true, 32>()
                                            : Kernels::template correlate<true, 64>();
    launch(kernel, grid, dim3(block_threads), d.stream, c);
    const int64_t weights = shape_.weight_count();
    columns<1>(d, splits_, weights, AddSplits{workspace, dweight, weights});
  }

  std::string implementation() const override { return std::string(Kernels::name) + ", " + Kernels::name + ", " + Kernels::name; }

 private:
  int64_t row_length() const { return shape_.kernel_h * shape_.kernel_w * shape_.in.c; }
  bool whole() const { return shape_.in.c % Kernels::group == 0 && shape_.out_channels % Kernels::group == 0; }
  int64_t tile_rows() const { return !whole() || shape_.out_channels <= 16 ? 16 : shape_.out_channels <= 32 ? 32 : 64; }

  Gather<T> make(const T* source, const Shape& from, const float* weight, T* out, const Shape& to, bool add) const {
    Gather<T> g;
    g.source = source, g.source_h = int(from.h), g.source_w = int(from.w), g.channels = int(from.c);
    g.weight = weight, g.kernel_taps = int(shape_.kernel_h * shape_.kernel_w), g.inputs = int(shape_.in.c);
    g.out = out, g.out_h = int(to.h), g.out_w = int(to.w), g.columns = int(to.c), g.add = add, g.taps = 0;
    return g;
  }
  void add_tap(Gather<T>& g, int64_t h, int64_t w, int r, int s) const {
    g.tap[g.taps++] = {int16_t(h), int16_t(w), int16_t(r * shape_.kernel_w + s)};
  }

  ConvolutionShape shape_;
  int64_t splits_, chunk_;  // of the pixels, for the gradient of the weights
};

// Places are counted in 32 bits, offsets of taps in 16, and a tap's place in the parameters of a kernel.
inline bool fits(const ConvolutionShape& s) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max() / 4, most_offset = 1 << 14;
  return s.groups == 1 && s.kernel_h * s.kernel_w <= most_taps && s.in.rows() < most && s.out().rows() < most && s.weight_count() < most &&
         std::max(s.padding_h, s.padding_w) < most_offset && s.dilation * std::max(s.kernel_h, s.kernel_w) < most_offset &&
         s.stride < most_offset;
}

template <class T, class Kernels>
std::unique_ptr<ConvolutionPlanOf<T>> plan(Device d, const ConvolutionShape& shape) {
  if (!d.gpu || shape.in.n == 0 || !fits(shape)) return nullptr;
  return std::make_unique<Convolution<T, Kernels>>(shape);
}

}  // namespace pipecast::implicit_gemm
#endif
