// Convolutions on the GPU as products of matrices that are never written down ("implicit GEMM"): a block computes a tile of the result and
// gathers what it multiplies from the images into shared memory, some products of the sum at a time. Products and sums are fp32, whatever
// the images are stored in. Every sum has a fixed order.
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
#include "engine/pack.h"

namespace pipecast {

#ifdef PIPECAST_DEVICE_CODE
namespace {

constexpr int block_threads = 256;
constexpr int step_depth = 16;  // products of a sum that are in shared memory at once
constexpr int gap = 4;  // floats between its rows, so that a warp that writes to several rows of a narrow tile meets different banks

using Four = Pack<float, 4>;

template <class T>
HD Four load_four(const T* from) {
  const auto pack = load<4>(from);
  return {{float(pack.v[0]), float(pack.v[1]), float(pack.v[2]), float(pack.v[3])}};
}

// A thread's 4 x 4 elements of a tile, or several such, one below the other.
template <int Parts>
struct Corner {
  float sum[Parts * 4][4] = {};

  // a: depth x a_row, b: depth x b_row, from this thread's rows and columns on; its parts are `part_rows` apart.
  template <int Depth>
  HD void multiply(const float* a, int a_row, int part_rows, const float* b, int b_row) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
    for (int k = 0; k < Depth; ++k) {
      const Four right = load<4>(b + k * b_row);
      for (int part = 0; part < Parts; ++part) {
        const Four left = load<4>(a + k * a_row + part * part_rows);
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < 4; ++j) sum[part * 4 + i][j] += left.v[i] * right.v[j];
      }
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
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

// Four channels of the source from `channel` on.
template <class T>
HD Four gather_four(const Gather<T>& g, Place at, Tap tap, int channel) {
  const int h = at.h + tap.h, w = at.w + tap.w;
  if (h < 0 || h >= g.source_h || w < 0 || w >= g.source_w) return {};
  return load_four(g.source + (int64_t(at.image + h) * g.source_w + w) * g.channels + channel);
}

// One product of the sum where channels do not come in fours: `k` counts taps x channels.
template <class T>
HD float gather_one(const Gather<T>& g, Place at, int k) {
  if (k >= g.taps * g.channels) return 0;
  const Tap tap = g.tap[k / g.channels];
  const int h = at.h + tap.h, w = at.w + tap.w;
  if (h < 0 || h >= g.source_h || w < 0 || w >= g.source_w) return 0;
  return g.source[(int64_t(at.image + h) * g.source_w + w) * g.channels + k % g.channels];
}

// Rows x Columns is a tile, of Parts * 16 elements for each thread. Whole: channels come in whole steps, columns in fours.
template <bool backward, bool Whole, int Rows, int Columns, class T>
__global__ void gather_kernel(Gather<T> g) {
  constexpr int Parts = Rows * Columns / (16 * block_threads), part_rows = Rows / Parts;
  constexpr int row_slots = Rows * step_depth / 4 / block_threads,
                column_slots = (Columns * step_depth / 4 + block_threads - 1) / block_threads;
  constexpr int a_row = Rows + gap, b_row = Columns + gap;
  alignas(16) __shared__ float a[2][step_depth * a_row], b[2][step_depth * b_row];
  const int thread = int(threadIdx.x);
  const int first_row = int(blockIdx.x) * Rows, first_column = int(blockIdx.y) * Columns;

  Place places[row_slots];
  for (int slot = 0; slot < row_slots; ++slot) places[slot] = place_of(g, first_row + (thread + slot * block_threads) % Rows);
  Four left[row_slots], right[column_slots];
  int tap = 0, channel = 0;  // of the next step, where steps are whole

  // Four products of a row, or of a column, are a thread's: from step * step_depth + quad * 4 on.
  const auto read = [&](int step) {
    for (int slot = 0; slot < row_slots; ++slot) {
      const int quad = (thread + slot * block_threads) / Rows * 4;
      if constexpr (Whole) left[slot] = gather_four(g, places[slot], g.tap[tap], channel + quad);
      else
        for (int e = 0; e < 4; ++e) left[slot].v[e] = gather_one(g, places[slot], step * step_depth + quad + e);
    }
    for (int slot = 0; slot < column_slots; ++slot) {
      const int v = thread + slot * block_threads;
      right[slot] = {};
      if (v >= Columns * step_depth / 4) continue;
      if constexpr (Whole && backward) {  // four columns of one product
        const int column = first_column + v % (Columns / 4) * 4, k = v / (Columns / 4);
        if (column < g.columns) right[slot] = load_four(g.weights_of(column, channel + k, g.tap[tap].index, true));
      } else {
        const int column = first_column + v % Columns, quad = v / Columns * 4;
        if (column >= g.columns) continue;
        if constexpr (Whole) right[slot] = load_four(g.weights_of(column, channel + quad, g.tap[tap].index, false));
        else
          for (int e = 0; e < 4; ++e)
            if (const int k = step * step_depth + quad + e; k < g.taps * g.channels)
              right[slot].v[e] = *g.weights_of(column, k % g.channels, g.tap[k / g.channels].index, backward);
      }
    }
    channel += step_depth;
    if (channel >= g.channels) channel = 0, ++tap;
  };
  const auto write = [&](int buffer) {
    for (int slot = 0; slot < row_slots; ++slot) {
      const int v = thread + slot * block_threads;
      for (int e = 0; e < 4; ++e) a[buffer][(v / Rows * 4 + e) * a_row + v % Rows] = left[slot].v[e];
    }
    for (int slot = 0; slot < column_slots; ++slot) {
      const int v = thread + slot * block_threads;
      if (v >= Columns * step_depth / 4) continue;
      if constexpr (Whole && backward) store(&b[buffer][v / (Columns / 4) * b_row + v % (Columns / 4) * 4], right[slot]);
      else
        for (int e = 0; e < 4; ++e) b[buffer][(v / Columns * 4 + e) * b_row + v % Columns] = right[slot].v[e];
    }
  };

  const int steps = (g.taps * g.channels + step_depth - 1) / step_depth;
  const int my_row = thread / (Columns / 4) * 4, my_column = thread % (Columns / 4) * 4;
  Corner<Parts> corner;
  if (steps > 0) {
    read(0);
    write(0);
  }
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) read(step + 1);
    corner.template multiply<step_depth>(&a[step % 2][my_row], a_row, part_rows, &b[step % 2][my_column], b_row);
    if (step + 1 < steps) write((step + 1) % 2);
    __syncthreads();
  }

  for (int part = 0; part < Parts; ++part)
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + part * part_rows + my_row + i, column = first_column + my_column;
      if (row >= g.rows || column >= g.columns) continue;
      const int h = row / g.rows_w % g.rows_h * g.out_step + g.phase_h, w = row % g.rows_w * g.out_step + g.phase_w;
      T* out = g.out + ((int64_t(row / g.rows_w / g.rows_h) * g.out_h + h) * g.out_w + w) * g.columns + column;
      const float(&sum)[4] = corner.sum[part * 4 + i];
      if constexpr (Whole) {
        Four before{};
        if (g.add) before = load_four(out);
        store(out, Pack<T, 4>{{T(before.v[0] + sum[0]), T(before.v[1] + sum[1]), T(before.v[2] + sum[2]), T(before.v[3] + sum[3])}});
      } else {
        for (int j = 0; j < 4 && column + j < g.columns; ++j) out[j] = T((g.add ? float(out[j]) : 0.0f) + sum[j]);
      }
    }
}

template <bool backward, bool Whole, int Rows, int Columns, class T>
void launch_gather(Device d, const Gather<T>& g) {
  launch(gather_kernel<backward, Whole, Rows, Columns, T>,
         dim3(unsigned((g.rows + Rows - 1) / Rows), unsigned((g.columns + Columns - 1) / Columns)), dim3(block_threads), d.stream, g);
}

template <bool backward, class T>
void gather(Device d, const Gather<T>& g) {
  if (g.rows == 0) return;
  if (g.channels % step_depth != 0 || g.columns % 4 != 0) return launch_gather<backward, false, 128, 32>(d, g);
  if (g.columns <= 16) return launch_gather<backward, true, 256, 16>(d, g);
  if (g.columns <= 32) return launch_gather<backward, true, 128, 32>(d, g);
  // Large tiles read less; small ones are more, and keep more of the GPU's processors busy.
  const int64_t large = int64_t(g.rows + 127) / 128 * ((g.columns + 63) / 64);
  if (large < 256) return launch_gather<backward, true, 64, 64>(d, g);
  launch_gather<backward, true, 128, 64>(d, g);
}

// ---------------------------------------------------------------------------------------------------------------------
// backward_weight

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

// Rows x 64 is a tile. `Slices` groups of threads share it: each adds other pixels of a step, and the first adds their sums in order.
template <bool Whole, int Rows, class T>
__global__ void correlate_kernel(Correlate<T> c) {
  constexpr int Columns = 64, group = Rows * Columns / 16, Slices = block_threads / group, depth = step_depth * Slices;
  constexpr int column_slots = depth * Columns / 4 / block_threads;
  constexpr int a_row = Rows + gap, b_row = Columns + gap;
  static_assert(Rows / 4 * depth == block_threads && Slices * group == block_threads);
  static_assert((Slices - 1) * Rows * Columns <= 2 * depth * b_row);
  alignas(16) __shared__ float a[2][depth * a_row], b[2][depth * b_row];
  const int thread = int(threadIdx.x);
  const int first_row = int(blockIdx.y) * Rows, first_column = int(blockIdx.x) * Columns;
  const int begin = int(blockIdx.z) * c.chunk, end = begin + c.chunk < c.pixels ? begin + c.chunk : c.pixels;

  // Of dy each thread reads four channels of one pixel of a step; of x, four columns of some pixels.
  const int a_quad = thread % (Rows / 4) * 4, a_depth = thread / (Rows / 4);
  const int b_quad = thread % (Columns / 4) * 4, b_depth = thread / (Columns / 4);
  constexpr int depth_of_slot = block_threads / (Columns / 4);
  Column columns[Whole ? 1 : 4];
  for (int e = 0; e < (Whole ? 1 : 4); ++e) columns[e] = column_of(c, first_column + b_quad + e);
  struct Pixel {
    int n, p, q;
  };
  Pixel at[column_slots];
  for (int slot = 0; slot < column_slots; ++slot) {
    const int pixel = begin + b_depth + slot * depth_of_slot;
    at[slot] = {pixel / c.out_w / c.out_h, pixel / c.out_w % c.out_h, pixel % c.out_w};
  }
  const Pixel advance = {depth / c.out_w / c.out_h, depth / c.out_w % c.out_h, depth % c.out_w};

  Four left, right[column_slots];
  const auto read = [&](int first) {
    const int pixel = first + a_depth, row = first_row + a_quad;
    left = {};
    if (pixel < end) {
      const T* from = c.dy + int64_t(pixel) * c.outputs + row;
      if constexpr (Whole) {
        if (row < c.outputs) left = load_four(from);
      } else {
        for (int e = 0; e < 4; ++e)
          if (row + e < c.outputs) left.v[e] = from[e];
      }
    }
    for (int slot = 0; slot < column_slots; ++slot) {
      Pixel& now = at[slot];
      right[slot] = {};
      if (first + b_depth + slot * depth_of_slot < end)
        for (int e = 0; e < (Whole ? 1 : 4); ++e) {
          const Column column = columns[e];
          const int h = now.p * c.stride + column.h, w = now.q * c.stride + column.w;
          if (h < 0 || h >= c.in_h || w < 0 || w >= c.in_w) continue;
          const T* from = c.x + (int64_t(now.n * c.in_h + h) * c.in_w + w) * c.inputs + column.channel;
          if constexpr (Whole) right[slot] = load_four(from);
          else right[slot].v[e] = *from;
        }
      now.q += advance.q;
      if (now.q >= c.out_w) now.q -= c.out_w, ++now.p;
      now.p += advance.p;
      if (now.p >= c.out_h) now.p -= c.out_h, ++now.n;
      now.n += advance.n;
    }
  };
  const auto write = [&](int buffer) {
    store(&a[buffer][a_depth * a_row + a_quad], left);
    for (int slot = 0; slot < column_slots; ++slot) store(&b[buffer][(b_depth + slot * depth_of_slot) * b_row + b_quad], right[slot]);
  };

  const int slice = thread / group, member = thread % group;
  const int my_row = member / (Columns / 4) * 4, my_column = member % (Columns / 4) * 4;
  Corner<1> corner;
  read(begin);
  write(0);
  __syncthreads();
  for (int first = begin, buffer = 0; first < end; first += depth, buffer = 1 - buffer) {
    if (first + depth < end) read(first + depth);
    corner.template multiply<step_depth>(&a[buffer][slice * step_depth * a_row + my_row], a_row, 0,
                                         &b[buffer][slice * step_depth * b_row + my_column], b_row);
    if (first + depth < end) write(1 - buffer);
    __syncthreads();
  }

  if constexpr (Slices > 1) {
    float* others = b[0];
    if (slice > 0)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) others[((slice - 1) * 16 + i * 4 + j) * group + member] = corner.sum[i][j];
    __syncthreads();
    if (slice > 0) return;
    for (int other = 0; other < Slices - 1; ++other)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) corner.sum[i][j] += others[(other * 16 + i * 4 + j) * group + member];
  }
  const int row_length = c.taps * c.inputs;
  float* sums = c.sums + int64_t(blockIdx.z) * c.outputs * row_length;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int row = first_row + my_row + i, column = first_column + my_column + j;
      if (row < c.outputs && column < row_length) sums[int64_t(row) * row_length + column] = corner.sum[i][j];
    }
}

// dweight += the splits' sums.
struct AddSplits {
  const float* sums;
  float* dweight;
  int64_t weights;
  HD Sums<1> operator()(int64_t split, int64_t weight) const { return {{sums[split * weights + weight]}}; }
  HD void done(int64_t weight, const Sums<1>& sum) const { dweight[weight] += sum.v[0]; }
};

template <class T>
class TiledConvolution : public ConvolutionPlanOf<T> {
 public:
  explicit TiledConvolution(const ConvolutionShape& shape) : shape_(shape) {
    // Enough blocks for a large GPU, each with some steps to make.
    const int64_t pixels = shape.out().rows(), depth = 64;
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
    gather<false>(d, g);
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
        gather<true>(d, g);
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
    if (!fours()) correlate<false, 16>(d, c);
    else if (tile_rows() == 16) correlate<true, 16>(d, c);
    else if (tile_rows() == 32) correlate<true, 32>(d, c);
    else correlate<true, 64>(d, c);
    const int64_t weights = shape_.weight_count();
    columns<1>(d, splits_, weights, AddSplits{workspace, dweight, weights});
  }

  std::string implementation() const override { return "tiles, tiles, tiles"; }

 private:
  int64_t row_length() const { return shape_.kernel_h * shape_.kernel_w * shape_.in.c; }
  bool fours() const { return shape_.in.c % 4 == 0 && shape_.out_channels % 4 == 0; }
  int64_t tile_rows() const { return !fours() || shape_.out_channels <= 16 ? 16 : shape_.out_channels <= 32 ? 32 : 64; }

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
  template <bool Whole, int Rows>
  void correlate(Device d, const Correlate<T>& c) const {
    launch(correlate_kernel<Whole, Rows, T>,
           dim3(unsigned((row_length() + 63) / 64), unsigned((c.outputs + Rows - 1) / Rows), unsigned(splits_)), dim3(block_threads),
           d.stream, c);
  }

  ConvolutionShape shape_;
  int64_t splits_, chunk_;  // of the pixels, for the gradient of the weights
};

// Places are counted in 32 bits, offsets of taps in 16, and a tap's place in the parameters of a kernel.
bool fits(const ConvolutionShape& s) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max() / 4, most_offset = 1 << 14;
  return s.groups == 1 && s.kernel_h * s.kernel_w <= most_taps && s.in.rows() < most && s.out().rows() < most && s.weight_count() < most &&
         std::max(s.padding_h, s.padding_w) < most_offset && s.dilation * std::max(s.kernel_h, s.kernel_w) < most_offset &&
         s.stride < most_offset;
}

template <class T>
std::unique_ptr<ConvolutionPlanOf<T>> plan_tiles(Device d, const ConvolutionShape& shape) {
  if (!d.gpu || shape.in.n == 0 || !fits(shape)) return nullptr;
  return std::make_unique<TiledConvolution<T>>(shape);
}

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_tiles(Device d, const ConvolutionShape& shape) { return plan_tiles<float>(d, shape); }
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_tiles_bf16(Device d, const ConvolutionShape& shape) {
  return plan_tiles<Bfloat16>(d, shape);
}
#else
std::unique_ptr<ConvolutionPlan> plan_convolution_tiles(Device, const ConvolutionShape&) { return nullptr; }
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_tiles_bf16(Device, const ConvolutionShape&) { return nullptr; }
#endif

}  // namespace pipecast
