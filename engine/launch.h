#pragma once
// Three ways to run a kernel over its work, on the host's threads or on a CUDA stream.
//
//   map      f(i)         or f(r, c)    every element by itself
//   rows     f(team, r)                 a team shares a row: its sums and maxima reach every member
//   columns  f(r, c), f.done(c, sums)   sums over the rows, per column
//
// A kernel is a struct of pointers and sizes with an HD operator(): its arithmetic is written once. In place of it, one for map may have a
// template at<W>(i) or at<W>(r, c) for the W elements from there on, and `width`, the W that suits a GPU; what its pointers point to is
// then aligned as Memory is (engine/pack.h).
//
// This header, compiled by g++, knows only the host; compiled by nvcc, both. A third way, for tests, is an emulator of a block of CUDA
// threads on the host: -DPIPECAST_EMULATOR="header" compiles the device code below with g++.
//
// Sums are added in an order that depends on the sizes alone, never on the number of threads nor on which of them come first: there
// are no atomic operations here.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/device.h"
#include "engine/host_device.h"

#ifdef PIPECAST_EMULATOR
#include PIPECAST_EMULATOR
#endif

#if defined(__CUDACC__) || defined(PIPECAST_EMULATOR)
#define PIPECAST_DEVICE_CODE
#endif

namespace pipecast {

// The value of columns(): K sums at once.
template <int K>
struct Sums {
  float v[K];
};

// The elements that a kernel's at<> takes at once on a GPU; 1 where it has an operator().
template <class F>
constexpr int width_of = [] {
  if constexpr (requires { F::width; }) return F::width;
  else return 1;
}();

// f's W elements from here on.
template <int W, class F, class... Place>
HD void apply(const F& f, Place... place) {
  if constexpr (requires { F::width; }) f.template at<W>(place...);
  else f(place...);
}

// ---------------------------------------------------------------------------------------------------------------------
// Host

// body(begin, end) over slices of [0, n). OpenMP, so that oneDNN's threads and ours are one pool.
//
// There are as many slices as threads were asked for. The team may be smaller: its threads then do several slices each. The slices are the
// same, and so is every bit of the result.
template <class Body>
void parallel(int64_t n, int64_t grain, const Body& body) {
  const int64_t slices = std::min<int64_t>(threads(), (n + grain - 1) / grain);
  if (slices <= 1) return body(int64_t(0), n);
#pragma omp parallel num_threads(int(slices))
  for (int64_t slice = omp_get_thread_num(); slice < slices; slice += omp_get_num_threads())
    body(n * slice / slices, n * (slice + 1) / slices);
}

// One host thread owns the row.
struct HostTeam {
  template <class F>
  HD void each(int64_t n, const F& f) const {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) f(j);
  }
  template <class F>
  HD float sum(int64_t n, const F& f) const {
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t j = 0; j < n; ++j) s += f(j);
    return s;
  }
  template <class F>
  HD float max(int64_t n, const F& f) const {
    float m = -INFINITY;
#pragma omp simd reduction(max : m)
    for (int64_t j = 0; j < n; ++j) m = std::max(m, f(j));
    return m;
  }
};

namespace host {

// Not inlined: as a part of two callers, one for a single thread and one for several, a sum could be compiled in two ways, with bits of its
// own.
template <class F>
[[gnu::noinline]] void some_rows(const F& f, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) f(HostTeam{}, r);
}

// One row in blocks of 16 columns: a constant width lets the compiler keep a block in vector registers.
template <class F>
inline void row(const F& f, int64_t r, int64_t cols) {
  int64_t c = 0;
  for (; c + 16 <= cols; c += 16) {
#pragma omp simd
    for (int k = 0; k < 16; ++k) apply<1>(f, r, c + k);
  }
  for (; c < cols; ++c) apply<1>(f, r, c);
}

// s[.][k] += f(r, c). A function of its own: within the omp simd loop, `value` would become an array that does not vectorize.
template <int W, int K, class F>
inline void add_value(const F& f, int64_t r, int64_t c, int k, float (&s)[K][W]) {
  const Sums<K> value = f(r, c);
  for (int j = 0; j < K; ++j) s[j][k] += value.v[j];
}

// sums[j * stride + k] = sum over rows [begin, end) of the j-th value at column c + k, for k < width <= W.
template <int W, int K, class F>
inline void strip(const F& f, int64_t begin, int64_t end, int64_t c, int width, float* sums, int64_t stride) {
  float s[K][W] = {};
  for (int64_t r = begin; r < end; ++r) {
    const int n = W < 16 ? width : W;
#pragma omp simd
    for (int k = 0; k < n; ++k) add_value<W, K>(f, r, c + k, k, s);
  }
  for (int j = 0; j < K; ++j)
    for (int k = 0; k < width; ++k) sums[j * stride + k] = s[j][k];
}

template <int K, class F>
void columns(int64_t n, int64_t cols, const F& f) {
  const int64_t chunks = std::clamp<int64_t>(n / 1024, 1, 32);
  static thread_local std::vector<float> storage;  // grows to the largest use, then stays
  storage.resize(std::max<size_t>(storage.size(), size_t(chunks * K * cols)));
  float* partial = storage.data();  // chunks x K x cols
  const int64_t strips = (cols + 63) / 64;
  parallel(chunks * strips, n * std::min<int64_t>(cols, 64) < 8192 ? chunks * strips : 1, [=](int64_t begin, int64_t end) {
    for (int64_t work = begin; work < end; ++work) {
      int64_t chunk = work % chunks, c = work / chunks * 64, last = std::min(cols, c + 64);
      int64_t first_row = n * chunk / chunks, last_row = n * (chunk + 1) / chunks;
      while (c < last) {
        float* sums = partial + chunk * K * cols + c;
        int width = int(last - c >= 64 ? 64 : last - c >= 16 ? 16 : last - c);
        if (width == 64) strip<64, K>(f, first_row, last_row, c, width, sums, cols);
        else if (width == 16) strip<16, K>(f, first_row, last_row, c, width, sums, cols);
        else strip<15, K>(f, first_row, last_row, c, width, sums, cols);
        c += width;
      }
    }
  });
  for (int64_t c = 0; c < cols; ++c) {
    Sums<K> total{};
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int j = 0; j < K; ++j) total.v[j] += partial[(chunk * K + j) * cols + c];
    f.done(c, total);
  }
}

}  // namespace host

// ---------------------------------------------------------------------------------------------------------------------
// Device

#ifdef PIPECAST_DEVICE_CODE
// A warp of 32 threads owns the row.
struct WarpTeam {
  template <class F>
  __device__ void each(int64_t n, const F& f) const {
    for (int64_t j = threadIdx.x; j < n; j += 32) f(j);
  }
  template <class F>
  __device__ float sum(int64_t n, const F& f) const {
    float s = 0;
    for (int64_t j = threadIdx.x; j < n; j += 32) s += f(j);
    for (int lane = 16; lane > 0; lane /= 2) s += __shfl_xor_sync(~0u, s, lane);
    return s;
  }
  template <class F>
  __device__ float max(int64_t n, const F& f) const {
    float m = -INFINITY;
    for (int64_t j = threadIdx.x; j < n; j += 32) m = fmaxf(m, f(j));
    for (int lane = 16; lane > 0; lane /= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, lane));
    return m;
  }
};

constexpr int64_t most_chunks_of_columns = 512;
constexpr int64_t most_blocks = 2048;  // of map: twice what a large GPU runs at once; a thread goes on from element to element

// A thread has `width` elements, neighbouring threads neighbouring ones.
template <class F>
__global__ void map_kernel(int64_t n, F f) {
  constexpr int W = width_of<F>;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x * W;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W; i < n; i += stride) {
    if (i + W <= n) apply<W>(f, i);
    else
      for (int64_t last = i; last < n; ++last) apply<1>(f, last);
  }
}

// The same for rows of `packs` times W columns. Between its elements a thread advances by so many rows and packs: division is slow.
template <int W, class F>
__global__ void map_columns_kernel(int64_t n, int64_t packs, int64_t row_step, int64_t pack_step, F f) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t r = i / packs, p = i % packs;
  while (r < n) {
    apply<W>(f, r, p * W);
    r += row_step, p += pack_step;
    if (p >= packs) p -= packs, ++r;
  }
}

template <class F>
__global__ void rows_kernel(int64_t n, F f) {
  int64_t r = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r < n) f(WarpTeam{}, r);
}

// A block of Threads sums blockDim.x columns over its chunk of the rows: blockIdx.x = strip, blockIdx.y = chunk. Where there is one chunk
// its sums are the result; else they go to partial: chunks x K x cols.
template <int K, int Threads, class F>
__global__ void columns_kernel(int64_t n, int64_t cols, F f, float* partial) {
  __shared__ float part[K][Threads];
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t begin = n * blockIdx.y / gridDim.y, end = n * (blockIdx.y + 1) / gridDim.y;
  Sums<K> sums{};
  if (c < cols)
    for (int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) {
      const Sums<K> value = f(r, c);
      for (int j = 0; j < K; ++j) sums.v[j] += value.v[j];
    }
  for (int j = 0; j < K; ++j) part[j][threadIdx.y * blockDim.x + threadIdx.x] = sums.v[j];
  __syncthreads();
  if (threadIdx.y != 0 || c >= cols) return;
  for (int j = 0; j < K; ++j) {
    for (unsigned k = 1; k < blockDim.y; ++k) sums.v[j] += part[j][k * blockDim.x + threadIdx.x];
    if (gridDim.y > 1) partial[(int64_t(blockIdx.y) * K + j) * cols + c] = sums.v[j];
  }
  if (gridDim.y == 1) f.done(c, sums);
}

// The second half of columns(): the chunks are rows.
template <int K, class F>
struct AddChunks {
  F f;
  const float* partial;
  int64_t cols;
  HD Sums<K> operator()(int64_t chunk, int64_t c) const {
    Sums<K> sums;
    for (int j = 0; j < K; ++j) sums.v[j] = partial[(chunk * K + j) * cols + c];
    return sums;
  }
  HD void done(int64_t c, const Sums<K>& sums) const { f.done(c, sums); }
};
#endif

#ifdef __CUDACC__
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream stream, Arguments... arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
  check(cudaGetLastError());
}
#endif

#ifdef PIPECAST_DEVICE_CODE
// For so many threads that have something to do, in blocks of 256.
inline dim3 map_grid(int64_t threads) { return dim3(unsigned(std::min((threads + 255) / 256, most_blocks))); }
#endif

// ---------------------------------------------------------------------------------------------------------------------
// The primitives

// f(i) for every i in [0, n), in any order.
template <class F>
void map(Device d, int64_t n, F f) {
  if (n == 0) return;
#ifdef PIPECAST_DEVICE_CODE
  if (d.gpu) return launch(map_kernel<F>, map_grid((n + width_of<F> - 1) / width_of<F>), dim3(256), d.stream, n, f);
#endif
  (void)d;
  parallel(n, 1 << 14, [f](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) apply<1>(f, i);
  });
}

#ifdef PIPECAST_DEVICE_CODE
template <int W, class F>
void map_columns(Device d, int64_t n, int64_t cols, F f) {
  const int64_t packs = cols / W;
  const dim3 grid = map_grid(n * packs);
  const int64_t stride = int64_t(grid.x) * 256;
  launch(map_columns_kernel<W, F>, grid, dim3(256), d.stream, n, packs, stride / packs, stride % packs, f);
}
#endif

// f(r, c) for every row r in [0, n) and column c in [0, cols), in any order.
template <class F>
void map(Device d, int64_t n, int64_t cols, F f) {
  if (n == 0 || cols == 0) return;
#ifdef PIPECAST_DEVICE_CODE
  if (d.gpu) {
    if (width_of < F >> 1 && cols % width_of<F> == 0) return map_columns<width_of<F>>(d, n, cols, f);
    return map_columns<1>(d, n, cols, f);
  }
#endif
  (void)d;
  parallel(n, std::max<int64_t>(1, (1 << 14) / cols), [f, cols](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) host::row(f, r, cols);
  });
}

// f(team, r) for every row r in [0, n); the team shares the row.
template <class F>
void rows(Device d, int64_t n, F f) {
  if (n == 0) return;
#ifdef PIPECAST_DEVICE_CODE
  if (d.gpu) return launch(rows_kernel<F>, dim3(unsigned((n + 7) / 8)), dim3(32, 8), d.stream, n, f);
#endif
  (void)d;
  parallel(n, 16, [&f](int64_t begin, int64_t end) { host::some_rows(f, begin, end); });
}

// f.done(c, the K sums of f(r, c) over r in [0, n)) for every column c. f returns Sums<K>.
template <int K, class F>
void columns(Device d, int64_t n, int64_t cols, F f) {
  if (cols == 0) return;
#ifdef PIPECAST_DEVICE_CODE
  if (d.gpu) {
    // Blocks that fill a large GPU several times over, where there are rows enough.
    const unsigned width = cols <= 16 ? 16 : 32;
    const int64_t strips = (cols + width - 1) / width;
    const auto chunks =
        unsigned(std::clamp<int64_t>(std::min({n / 128, device_scratch_floats / (K * cols), 1024 / strips}), 1, most_chunks_of_columns));
    launch(columns_kernel<K, 256, F>, dim3(unsigned(strips), chunks), dim3(width, 256 / width), d.stream, n, cols, f, d.scratch);
    if (chunks == 1) return;
    return launch(columns_kernel<K, 512, AddChunks<K, F>>, dim3(unsigned(strips)), dim3(width, 512 / width), d.stream, int64_t(chunks), cols,
                  AddChunks<K, F>{f, d.scratch, cols}, static_cast<float*>(nullptr));
  }
#endif
  (void)d;
  host::columns<K>(n, cols, f);
}

}  // namespace pipecast
