// The kernels of convolutions on the GPU in bf16 (see implicit_gemm.h): tensor cores multiply images and rounded weights and add in fp32.
// A matrix lies in shared memory with a row's products of the sum side by side, two in a word. Rows are 4 words longer than a multiple of
// 32 (or 20 words): so the eight rows that a warp reads at once are in different banks.
#include <utility>

#include "engine/convolution/implicit_gemm.h"
#include "engine/pack.h"
#include "engine/tensor_core.h"

namespace pipecast {

#ifdef PIPECAST_DEVICE_CODE
namespace {

using namespace implicit_gemm;
using Eight = Pack<Bfloat16, 8>;

constexpr int warps = block_threads / 32;

// Rows x Columns of a tile that a warp has, in blocks of 16 x 8. Loops over `sum` are each<>: a loop that the compiler leaves as one would
// put it into memory.
template <int Rows, int Columns>
struct Corner {
  static constexpr int down = Rows / 16, across = Columns / 8;
  float sum[down][across][4] = {};

  // Adds 16 products to each: a and b are the corner's rows and columns in shared memory, from the first of these products on.
  HD void multiply(const uint32_t* a, const uint32_t* b, int row_words, int lane) {
    const int g = lane / 4, t = lane % 4;
    uint32_t left[down][4];
    each<down>([&](int i) { each<4>([&](int e) { left[i][e] = a[(i * 16 + e % 2 * 8 + g) * row_words + e / 2 * 4 + t]; }); });
    each<across>([&](int j) {
      const uint32_t* from = b + (j * 8 + g) * row_words + t;
      const uint32_t right[2] = {from[0], from[4]};
      each<down>([&](int i) { multiply_add(sum[i][j], left[i], right); });
    });
  }

  // visit(row, column, sum, sum of the column after it), with the row and the column within the corner.
  template <class Visit>
  HD void each_pair(int lane, const Visit& visit) {
    each<down * 2>([&](int i) {
      each<across>([&](int j) {
        float* pair = &sum[i / 2][j][i % 2 * 2];
        visit(i * 8 + lane / 4, j * 8 + lane % 4 * 2, pair[0], pair[1]);
      });
    });
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// forward and backward_input

constexpr int step_depth = 32;  // products of a sum that are in shared memory at once
constexpr int step_words = step_depth / 2 + 4;

// Whole: the source's channels come in eights. A thread gathers eights, always at the same place of a step, for several rows.
template <bool backward, bool Whole, int Rows, int Columns>
__global__ void gather_kernel(Gather<Bfloat16> g) {
  constexpr int across = Columns / (Columns < 32 ? Columns : 32);  // warps that share their rows
  constexpr int warp_rows = Rows * across / warps, warp_columns = Columns / across;
  constexpr int row_slots = Rows * 4 / block_threads;
  static_assert(Columns * 4 <= block_threads);
  alignas(16) __shared__ uint32_t a[2][Rows * step_words], b[2][Columns * step_words];
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int first_row = int(blockIdx.x) * Rows, first_column = int(blockIdx.y) * Columns;
  const int eighth = thread % 4 * 8, line = thread / 4;  // its eight products of a step; its row of a slot, and its column
  const int products = g.taps * g.channels;

  Place places[row_slots];
  for (int slot = 0; slot < row_slots; ++slot) places[slot] = place_of(g, first_row + line + slot * (block_threads / 4));
  const int column = first_column + line;
  const bool has_column = line < Columns && column < g.columns;
  Eight left[row_slots], right;
  int tap = eighth / g.channels, channel = eighth % g.channels;  // of the next step's eight, where they are whole

  const auto inside = [&](Place at, Tap moved, int64_t* offset) {
    const int h = at.h + moved.h, w = at.w + moved.w;
    *offset = (int64_t(at.image + h) * g.source_w + w) * g.channels;
    return h >= 0 && h < g.source_h && w >= 0 && w < g.source_w;
  };
  const auto read = [&](int step) {
    for (int slot = 0; slot < row_slots; ++slot) left[slot] = {};
    right = {};
    int64_t offset;
    if constexpr (Whole) {
      if (tap < g.taps) {
        const Tap now = g.tap[tap];
        for (int slot = 0; slot < row_slots; ++slot)
          if (inside(places[slot], now, &offset)) left[slot] = load<8>(g.source + offset + channel);
        if (has_column) {
          const float* weight = g.weights_of(column, channel, now.index, backward);
          const int64_t next = backward ? int64_t(g.kernel_taps) * g.inputs : 1;
          for (int e = 0; e < 8; ++e) right.v[e] = weight[e * next];
        }
      }
      channel += step_depth;
      while (channel >= g.channels) channel -= g.channels, ++tap;
    } else {
      for (int e = 0; e < 8; ++e) {
        const int k = step * step_depth + eighth + e;
        if (k >= products) break;
        const Tap now = g.tap[k / g.channels];
        const int c = k % g.channels;
        for (int slot = 0; slot < row_slots; ++slot)
          if (inside(places[slot], now, &offset)) left[slot].v[e] = g.source[offset + c];
        if (has_column) right.v[e] = *g.weights_of(column, c, now.index, backward);
      }
    }
  };
  const auto write = [&](int buffer) {
    for (int slot = 0; slot < row_slots; ++slot)
      store(reinterpret_cast<Bfloat16*>(&a[buffer][(line + slot * (block_threads / 4)) * step_words]) + eighth, left[slot]);
    if (line < Columns) store(reinterpret_cast<Bfloat16*>(&b[buffer][line * step_words]) + eighth, right);
  };

  const int steps = (products + step_depth - 1) / step_depth;
  const int my_row = warp / across * warp_rows, my_column = warp % across * warp_columns;
  Corner<warp_rows, warp_columns> corner;
  if (steps > 0) {
    read(0);
    write(0);
  }
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) read(step + 1);
    for (int k = 0; k < step_depth / 2; k += 8)
      corner.multiply(&a[step % 2][my_row * step_words + k], &b[step % 2][my_column * step_words + k], step_words, lane);
    if (step + 1 < steps) write((step + 1) % 2);
    __syncthreads();
  }

  int row_of_out = -1;
  Bfloat16* out = nullptr;
  corner.each_pair(lane, [&](int at_row, int at_column, float sum, float next_sum) {
    const int row = first_row + my_row + at_row, column = first_column + my_column + at_column;
    if (row >= g.rows || column >= g.columns) return;
    if (row != row_of_out) {
      row_of_out = row;
      const int h = row / g.rows_w % g.rows_h * g.out_step + g.phase_h, w = row % g.rows_w * g.out_step + g.phase_w;
      out = g.out + ((int64_t(row / g.rows_w / g.rows_h) * g.out_h + h) * g.out_w + w) * g.columns;
    }
    if (g.columns % 2 == 0) {
      Pack<Bfloat16, 2> before{};
      if (g.add) before = load<2>(out + column);
      store(out + column, Pack<Bfloat16, 2>{{float(before.v[0]) + sum, float(before.v[1]) + next_sum}});
    } else {
      out[column] = (g.add ? float(out[column]) : 0.0f) + sum;
      if (column + 1 < g.columns) out[column + 1] = (g.add ? float(out[column + 1]) : 0.0f) + next_sum;
    }
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// backward_weight

// Rows x 64 is a tile. Each group of warps, a slice, adds other pixels of a step; the slices' sums are added in a fixed order. A thread
// gathers eight channels of two neighbouring pixels, whose products lie side by side. Whole: channels come in eights on both sides.
template <bool Whole, int Rows>
__global__ void __launch_bounds__(block_threads, 2) correlate_kernel(Correlate<Bfloat16> c) {
  constexpr int Columns = 64, down = Rows > 32 ? 2 : 1, slices = warps / down, warp_rows = Rows / down;
  constexpr int depth = slices * 16, pairs = depth / 2, row_words = pairs + 4;
  constexpr int lines = block_threads / pairs, column_slots = Columns / 8 / lines;
  static_assert(Rows / 8 <= lines && column_slots * lines * 8 == Columns);
  constexpr int words_of_step = (Rows + Columns) * row_words, words_of_slices = slices / 2 * Rows * Columns;
  alignas(16) __shared__ uint32_t shared[words_of_step > words_of_slices ? words_of_step : words_of_slices];
  uint32_t *a = shared, *b = shared + Rows * row_words;
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int pair = thread % pairs, line = thread / pairs;  // its pixels of a step; its eight rows, and its eight columns of a slot
  const int first_row = int(blockIdx.y) * Rows, first_column = int(blockIdx.x) * Columns;
  const int begin = int(blockIdx.z) * c.chunk, end = begin + c.chunk < c.pixels ? begin + c.chunk : c.pixels;

  Column columns[column_slots][Whole ? 1 : 8];
  for (int slot = 0; slot < column_slots; ++slot)
    for (int e = 0; e < (Whole ? 1 : 8); ++e) columns[slot][e] = column_of(c, first_column + (line + slot * lines) * 8 + e);
  const int first_pixel = begin + pair * 2;
  int n = first_pixel / c.out_w / c.out_h, p = first_pixel / c.out_w % c.out_h, q = first_pixel % c.out_w;
  const int next_n = depth / c.out_w / c.out_h, next_p = depth / c.out_w % c.out_h, next_q = depth % c.out_w;

  Eight left[2], right[column_slots][2];
  const auto read = [&](int first) {
    int image = n, h = p * c.stride, w = q * c.stride, row = p, column_of_y = q;
    for (int which = 0; which < 2; ++which) {
      const int pixel = first + pair * 2 + which;
      left[which] = {};
      for (int slot = 0; slot < column_slots; ++slot) right[slot][which] = {};
      if (pixel < end) {
        const int channel = first_row + line * 8;
        if (line < Rows / 8) {
          const Bfloat16* from = c.dy + int64_t(pixel) * c.outputs + channel;
          if constexpr (Whole) {
            if (channel < c.outputs) left[which] = load<8>(from);
          } else {
            for (int e = 0; e < 8; ++e)
              if (channel + e < c.outputs) left[which].v[e] = from[e];
          }
        }
        for (int slot = 0; slot < column_slots; ++slot)
          for (int e = 0; e < (Whole ? 1 : 8); ++e) {
            const Column moved = columns[slot][e];
            const int at_h = h + moved.h, at_w = w + moved.w;
            if (at_h < 0 || at_h >= c.in_h || at_w < 0 || at_w >= c.in_w) continue;
            const Bfloat16* from = c.x + (int64_t(image * c.in_h + at_h) * c.in_w + at_w) * c.inputs + moved.channel;
            if constexpr (Whole) right[slot][which] = load<8>(from);
            else right[slot][which].v[e] = *from;
          }
      }
      if (++column_of_y == c.out_w) {
        column_of_y = 0;
        if (++row == c.out_h) row = 0, ++image;
      }
      h = row * c.stride, w = column_of_y * c.stride;
    }
    q += next_q;
    if (q >= c.out_w) q -= c.out_w, ++p;
    p += next_p;
    if (p >= c.out_h) p -= c.out_h, ++n;
    n += next_n;
  };
  const auto write = [&] {
    for (int e = 0; e < 8; ++e) {
      if (line < Rows / 8) a[(line * 8 + e) * row_words + pair] = pair_of(left[0].v[e], left[1].v[e]);
      for (int slot = 0; slot < column_slots; ++slot)
        b[((line + slot * lines) * 8 + e) * row_words + pair] = pair_of(right[slot][0].v[e], right[slot][1].v[e]);
    }
  };

  const int slice = warp / down, my_row = warp % down * warp_rows;
  Corner<warp_rows, Columns> corner;
  read(begin);
  for (int first = begin; first < end; first += depth) {
    write();
    __syncthreads();
    if (first + depth < end) read(first + depth);
    corner.multiply(a + my_row * row_words + slice * 8, b + slice * 8, row_words, lane);
    __syncthreads();
  }

  // The upper half of the slices gives its sums to the lower half, until one is left.
  auto* sums = reinterpret_cast<Pack<float, 2>*>(shared);
  constexpr int pairs_of_warp = warp_rows * Columns / 2;
  const auto place = [&](int of_slice, int at_row, int at_column) -> Pack<float, 2>& {
    return sums[(of_slice * down + warp % down) * pairs_of_warp + (at_row * Columns + at_column) / 2];
  };
  for (int half = slices / 2; half > 0; half /= 2) {
    if (slice >= half && slice < 2 * half)
      corner.each_pair(lane, [&](int row, int column, float sum, float next_sum) { place(slice - half, row, column) = {{sum, next_sum}}; });
    __syncthreads();
    if (slice < half)
      corner.each_pair(lane, [&](int row, int column, float& sum, float& next_sum) {
        const Pack<float, 2> other = place(slice, row, column);
        sum += other.v[0], next_sum += other.v[1];
      });
    __syncthreads();
  }
  if (slice > 0) return;

  const int row_length = c.taps * c.inputs;
  float* out = c.sums + int64_t(blockIdx.z) * c.outputs * row_length;
  corner.each_pair(lane, [&](int at_row, int at_column, float sum, float next_sum) {
    const int row = first_row + my_row + at_row, column = first_column + at_column;
    if (row >= c.outputs) return;
    if (column < row_length) out[int64_t(row) * row_length + column] = sum;
    if (column + 1 < row_length) out[int64_t(row) * row_length + column + 1] = next_sum;
  });
}

struct Kernels {
  static constexpr const char* name = "tensor cores";
  static constexpr int group = 8, depth = 128;

  template <bool backward>
  static void gather(Device d, const Gather<Bfloat16>& g) {
    if (g.rows == 0) return;
    if (g.channels % 8 != 0) return launch_gather<128, 64>(d, gather_kernel<backward, false, 128, 64>, g);
    if (g.columns <= 16) return launch_gather<256, 16>(d, gather_kernel<backward, true, 256, 16>, g);
    if (g.columns <= 32) return launch_gather<256, 32>(d, gather_kernel<backward, true, 256, 32>, g);
    launch_gather<128, 64>(d, gather_kernel<backward, true, 128, 64>, g);
  }

  template <bool Whole, int Rows>
  static auto correlate() {
    return correlate_kernel<Whole, Rows>;
  }
};

}  // namespace

std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_tensor_cores(Device d, const ConvolutionShape& shape) {
  return implicit_gemm::plan<Bfloat16, Kernels>(d, shape);
}
#else
std::unique_ptr<ConvolutionPlanOf<Bfloat16>> plan_convolution_tensor_cores(Device, const ConvolutionShape&) { return nullptr; }
#endif

}  // namespace pipecast
