// The kernels of convolutions on the GPU in fp32 (see implicit_gemm.h): ordinary multiplications, a corner of the tile for each thread.
#include "engine/convolution/implicit_gemm.h"
#include "engine/pack.h"

namespace pipecast {

#ifdef PIPECAST_DEVICE_CODE
namespace {

using namespace implicit_gemm;

constexpr int step_depth = 16;  // products of a sum that are in shared memory at once
constexpr int gap = 4;  // floats between its rows, so that a warp that writes to several rows of a narrow tile meets different banks

using Four = Pack<float, 4>;

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

// Four channels of the source from `channel` on.
HD Four gather_four(const Gather<float>& g, Place at, Tap tap, int channel) {
  const int h = at.h + tap.h, w = at.w + tap.w;
  if (h < 0 || h >= g.source_h || w < 0 || w >= g.source_w) return {};
  return load<4>(g.source + (int64_t(at.image + h) * g.source_w + w) * g.channels + channel);
}

// One product of the sum where channels do not come in fours: `k` counts taps x channels.
HD float gather_one(const Gather<float>& g, Place at, int k) {
  if (k >= g.taps * g.channels) return 0;
  const Tap tap = g.tap[k / g.channels];
  const int h = at.h + tap.h, w = at.w + tap.w;
  if (h < 0 || h >= g.source_h || w < 0 || w >= g.source_w) return 0;
  return g.source[(int64_t(at.image + h) * g.source_w + w) * g.channels + k % g.channels];
}

// Rows x Columns is a tile, of Parts * 16 elements for each thread. Whole: channels come in whole steps, columns in fours.
template <bool backward, bool Whole, int Rows, int Columns>
__global__ void gather_kernel(Gather<float> g) {
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
        if (column < g.columns) right[slot] = load<4>(g.weights_of(column, channel + k, g.tap[tap].index, true));
      } else {
        const int column = first_column + v % Columns, quad = v / Columns * 4;
        if (column >= g.columns) continue;
        if constexpr (Whole) right[slot] = load<4>(g.weights_of(column, channel + quad, g.tap[tap].index, false));
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
      float* out = g.out + ((int64_t(row / g.rows_w / g.rows_h) * g.out_h + h) * g.out_w + w) * g.columns + column;
      const float(&sum)[4] = corner.sum[part * 4 + i];
      if constexpr (Whole) {
        Four before{};
        if (g.add) before = load<4>(out);
        store(out, Four{{before.v[0] + sum[0], before.v[1] + sum[1], before.v[2] + sum[2], before.v[3] + sum[3]}});
      } else {
        for (int j = 0; j < 4 && column + j < g.columns; ++j) out[j] = (g.add ? out[j] : 0.0f) + sum[j];
      }
    }
}

// Rows x 64 is a tile. `Slices` groups of threads share it: each adds other pixels of a step, and the first adds their sums in order.
template <bool Whole, int Rows>
__global__ void correlate_kernel(Correlate<float> c) {
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
      const float* from = c.dy + int64_t(pixel) * c.outputs + row;
      if constexpr (Whole) {
        if (row < c.outputs) left = load<4>(from);
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
          const float* from = c.x + (int64_t(now.n * c.in_h + h) * c.in_w + w) * c.inputs + column.channel;
          if constexpr (Whole) right[slot] = load<4>(from);
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

struct Kernels {
  static constexpr const char* name = "tiles";
  static constexpr int group = 4, depth = 64;

  template <bool backward>
  static void gather(Device d, const Gather<float>& g) {
    if (g.rows == 0) return;
    if (g.channels % step_depth != 0 || g.columns % 4 != 0) return launch_gather<128, 32>(d, gather_kernel<backward, false, 128, 32>, g);
    if (g.columns <= 16) return launch_gather<256, 16>(d, gather_kernel<backward, true, 256, 16>, g);
    if (g.columns <= 32) return launch_gather<128, 32>(d, gather_kernel<backward, true, 128, 32>, g);
    // Large tiles read less; small ones are more, and keep more of the GPU's processors busy.
    const int64_t large = int64_t(g.rows + 127) / 128 * ((g.columns + 63) / 64);
    if (large < 256) return launch_gather<64, 64>(d, gather_kernel<backward, true, 64, 64>, g);
    launch_gather<128, 64>(d, gather_kernel<backward, true, 128, 64>, g);
  }

  template <bool Whole, int Rows>
  static auto correlate() {
    return correlate_kernel<Whole, Rows>;
  }
};

}  // namespace

std::unique_ptr<ConvolutionPlan> plan_convolution_tiles(Device d, const ConvolutionShape& shape) {
  return implicit_gemm::plan<float, Kernels>(d, shape);
}
#else
std::unique_ptr<ConvolutionPlan> plan_convolution_tiles(Device, const ConvolutionShape&) { return nullptr; }
#endif

}  // namespace pipecast
