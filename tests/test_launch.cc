// The launch primitives: the host against plain loops, and the emulated GPU against the host.
#include <doctest/doctest.h>

#include <vector>

#include "engine/launch.h"
#include "engine/memory.h"
#include "engine/pack.h"
#include "engine/random.h"

using namespace pipecast;

namespace {

const Random noise{7, purpose("test_launch"), 0};
const std::vector<int64_t> row_counts = {0, 1, 7, 5000}, column_counts = {1, 3, 15, 16, 17, 64, 70, 130};

std::vector<float> random_values(int64_t n) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) values[i] = noise.uniform(uint64_t(i)) - 0.25f;
  return values;
}
std::vector<float> poisoned(int64_t n) { return std::vector<float>(n, NAN); }

// Runs the work on the host with one thread and with two, which must agree to the bit, and on the emulated GPU where this
// test is compiled with it. Hands each result to `check`.
template <class Work, class Check>
void everywhere(int64_t results, const Work& work, const Check& check) {
  const int before = threads();
  std::vector<float> one = poisoned(results), two = poisoned(results);
  set_threads(1);
  work(Device{}, one.data());
  set_threads(2);
  work(Device{}, two.data());
  set_threads(before);
  REQUIRE(std::equal(one.begin(), one.end(), two.begin()));
  check(one);
#ifdef PIPECAST_EMULATOR
  const Memory scratch(Device{}, device_scratch_floats);
  std::fill_n(scratch.data(), scratch.size(), NAN);
  std::vector<float> gpu = poisoned(results), again = poisoned(results);
  work(Device{true, nullptr, scratch.data()}, gpu.data());
  check(gpu);
  work(Device{true, nullptr, scratch.data()}, again.data());
  REQUIRE(std::equal(gpu.begin(), gpu.end(), again.begin()));
#endif
}

struct Affine {  // y = 3 x + 1
  const float* x;
  float* y;
  HD void operator()(int64_t i) const { y[i] = 3 * x[i] + 1; }
};

struct AddBias {  // y = x + b
  const float *x, *bias;
  float* y;
  int64_t cols;
  HD void operator()(int64_t r, int64_t c) const { y[r * cols + c] = x[r * cols + c] + bias[c]; }
};

struct AddPacks {  // y += x, four at a time on a GPU
  const float* x;
  float* y;
  int64_t cols = 0;
  static constexpr int width = 4;
  template <int W>
  HD void at(int64_t i) const {
    const auto more = load<W>(x + i);
    auto sum = load<W>(y + i);
    each<W>([&](int k) { sum.v[k] += more.v[k]; });
    store(y + i, sum);
  }
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    at<W>(r * cols + c);
  }
};

struct Normalize {  // y = (x - max) / sum
  const float* x;
  float* y;
  int64_t cols;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const float* in = x + r * cols;
    float* out = y + r * cols;
    const float most = team.max(cols, [&](int64_t j) { return in[j]; });
    const float sum = team.sum(cols, [&](int64_t j) { return in[j] * in[j]; });
    team.each(cols, [&](int64_t j) { out[j] = (in[j] - most) / sum; });
  }
};

struct Moments {  // y = the sums of x and x * x
  const float* x;
  float* y;
  int64_t cols;
  HD Sums<2> operator()(int64_t r, int64_t c) const {
    const float value = x[r * cols + c];
    return {{value, value * value}};
  }
  HD void done(int64_t c, const Sums<2>& sums) const {
    y[c] = sums.v[0];
    y[cols + c] = sums.v[1];
  }
};

}  // namespace

TEST_CASE("map reaches every element once") {
  for (int64_t n : {0, 1, 7, 255, 257, 5000, 100'003}) {
    CAPTURE(n);
    const std::vector<float> x = random_values(n);
    everywhere(
        n,
        [&](Device d, float* y) {
          map(d, n, Affine{x.data(), y});
        },
        [&](const std::vector<float>& y) {
          int64_t wrong = 0;
          for (int64_t i = 0; i < n; ++i) wrong += y[i] != std::fma(3.f, x[i], 1.f) && y[i] != 3 * x[i] + 1;
          CHECK(wrong == 0);
        });
  }
}

TEST_CASE("map over rows and columns reaches every element once") {
  for (int64_t n : row_counts)
    for (int64_t cols : column_counts) {
      CAPTURE(n);
      CAPTURE(cols);
      const std::vector<float> x = random_values(n * cols), bias = random_values(cols);
      everywhere(
          n * cols,
          [&](Device d, float* y) {
            map(d, n, cols, AddBias{x.data(), bias.data(), y, cols});
          },
          [&](const std::vector<float>& y) {
            int64_t wrong = 0;
            for (int64_t i = 0; i < n * cols; ++i) wrong += y[i] != x[i] + bias[i % cols];
            CHECK(wrong == 0);
          });
    }
}

TEST_CASE("map in packs reaches every element once, with rests, and with more elements than threads") {
  const int64_t threads = 2048 * 256;
  for (int64_t n : {0, 1, 3, 4, 7, 1022, 100'003, int(4 * threads + 4 * 256 + 6)}) {
    CAPTURE(n);
    const std::vector<float> x = random_values(n);
    everywhere(
        n,
        [&](Device d, float* y) {
          std::fill_n(y, n, 0.f), map(d, n, AddPacks{x.data(), y});
        },
        [&](const std::vector<float>& y) { CHECK(y == x); });
  }
  // In packs of four, and one by one; fewer and more rows than threads side by side hold.
  for (auto [n, cols] :
       {std::pair<int64_t, int64_t>{3, 8}, {7, 10}, {5000, 16}, {threads / 50, 404}, {threads / 50, 101}, {threads + 3, 1}, {2, threads}}) {
    CAPTURE(n);
    CAPTURE(cols);
    const std::vector<float> x = random_values(n * cols);
    everywhere(
        n * cols,
        [&, n = n, cols = cols](Device d, float* y) {
          std::fill_n(y, n * cols, 0.f), map(d, n, cols, AddPacks{x.data(), y, cols});
        },
        [&](const std::vector<float>& y) { CHECK(y == x); });
  }
}

TEST_CASE("rows gives every member of the team the sum and the maximum") {
  for (int64_t n : {0, 1, 7, 500})
    for (int64_t cols : column_counts) {
      CAPTURE(n);
      CAPTURE(cols);
      const std::vector<float> x = random_values(n * cols);
      everywhere(
          n * cols,
          [&](Device d, float* y) {
            rows(d, n, Normalize{x.data(), y, cols});
          },
          [&](const std::vector<float>& y) {
            double worst = 0;
            for (int64_t r = 0; r < n; ++r) {
              const float* in = x.data() + r * cols;
              const double most = *std::max_element(in, in + cols);
              double sum = 0;
              for (int64_t c = 0; c < cols; ++c) sum += double(in[c]) * in[c];
              for (int64_t c = 0; c < cols; ++c) {
                const double expected = (in[c] - most) / sum, error = std::abs(y[r * cols + c] - expected);
                worst = std::isnan(error) ? INFINITY : std::max(worst, error / (1e-30 + std::abs(expected)));
              }
            }
            CHECK(worst < 2e-6);
          });
    }
}

TEST_CASE("columns sums over the rows") {
  for (int64_t n : row_counts)
    for (int64_t cols : column_counts) {
      CAPTURE(n);
      CAPTURE(cols);
      const std::vector<float> x = random_values(n * cols);
      everywhere(
          2 * cols,
          [&](Device d, float* y) {
            columns<2>(d, n, cols, Moments{x.data(), y, cols});
          },
          [&](const std::vector<float>& y) {
            double worst = 0;
            for (int64_t c = 0; c < cols; ++c) {
              double first = 0, second = 0, magnitude = 1e-30;
              for (int64_t r = 0; r < n; ++r) {
                const double value = x[r * cols + c];
                first += value, second += value * value, magnitude += std::abs(value);
              }
              const double error = std::max(std::abs(y[c] - first), std::abs(y[cols + c] - second)) / magnitude;
              worst = std::isnan(error) ? INFINITY : std::max(worst, error);
            }
            CHECK(worst < 1e-5);
          });
    }
}

#ifdef PIPECAST_EMULATOR
namespace {

// Runs a kernel that is expected to be faulty and returns what the emulator says about it.
template <class Kernel, class... Arguments>
doctest::String fault_of(Kernel kernel, dim3 grid, dim3 block, Arguments... arguments) {
  try {
    launch(kernel, grid, block, nullptr, arguments...);
  } catch (const Error& error) {
    return error.what();
  }
  return "no fault";
}

// y[t] = 2 x[t + 1]: each thread reads what its neighbour wrote to shared memory.
template <bool with_barrier>
void rotate(const float* x, float* y) {
  __shared__ float part[64];
  part[threadIdx.x] = 2 * x[threadIdx.x];
  if (with_barrier) __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = part[(threadIdx.x + 1) % 64];
  if (with_barrier) __syncthreads();
  part[threadIdx.x] = NAN;  // for the next block
}

void early_exit(int leave) {
  if (int(threadIdx.x) < leave) return;
  __syncthreads();
}

void two_barriers() {
  if (threadIdx.x % 2 == 0) __syncthreads();
  else __syncthreads();
}

void half_a_shuffle(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);
}

void two_shuffles(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);
  else y[threadIdx.x] = __shfl_xor_sync(~0u, 2.f, 1);
}

void shuffle_or_barrier(float* y) {
  if (threadIdx.x < 16) __syncthreads();
  else y[threadIdx.x] = __shfl_xor_sync(~0u, 2.f, 1);
}

void shuffle_once(float* y, unsigned lanes, int lane_mask) {
  const int lane = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  y[lane] = __shfl_xor_sync(lanes, float(lane), lane_mask);
}

void where_am_i(unsigned* y) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] += block * 1000 + thread;
}

}  // namespace

TEST_CASE("emulator: every thread of every block runs once, with its own index") {
  std::vector<unsigned> y(2 * 3 * 4 * 5 * 6 * 7, 0);
  launch(where_am_i, dim3(2, 3, 4), dim3(5, 6, 7), nullptr, y.data());
  size_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) wrong += y[i] != i / 210 * 1000 + i % 210;
  CHECK(wrong == 0);
}

TEST_CASE("emulator: shared memory crosses a barrier, and a forgotten barrier shows") {
  const std::vector<float> x = random_values(64);
  for (bool with_barrier : {true, false}) {
    std::vector<float> y = poisoned(128);
    launch(with_barrier ? rotate<true> : rotate<false>, dim3(2), dim3(64), nullptr, x.data(), y.data());
    int wrong = 0;
    for (int i = 0; i < 128; ++i) wrong += y[i] != 2 * x[(i + 1) % 64];
    CHECK((wrong == 0) == with_barrier);
  }
}

TEST_CASE("emulator: shuffles exchange within each warp") {
  std::vector<float> y = poisoned(96);
  for (int mask : {1, 5, 16, 31}) {
    launch(shuffle_once, dim3(1), dim3(8, 4, 3), nullptr, y.data(), ~0u, mask);
    int wrong = 0;
    for (int i = 0; i < 96; ++i) wrong += y[i] != float(i ^ mask);
    CHECK(wrong == 0);
  }
}

TEST_CASE("emulator: faults are found and named") {
  std::vector<float> y(64);
  CHECK(fault_of(early_exit, dim3(2), dim3(64), 0) == "no fault");
  for (int leave : {1, 32, 63}) CHECK(fault_of(early_exit, dim3(2), dim3(64), leave) == doctest::Contains("the others have ended"));
  CHECK(fault_of(early_exit, dim3(1), dim3(64), 10) == doctest::Contains("test_launch.cc"));
  CHECK(fault_of(early_exit, dim3(1), dim3(64), 10) == doctest::Contains("54 of the 64 threads"));
  CHECK(fault_of(two_barriers, dim3(1), dim3(64)) == doctest::Contains("different barriers"));
  CHECK(fault_of(half_a_shuffle, dim3(1), dim3(32), y.data()) == doctest::Contains("16 of the 32 lanes"));
  CHECK(fault_of(two_shuffles, dim3(1), dim3(32), y.data()) == doctest::Contains("different shuffles"));
  CHECK(fault_of(shuffle_or_barrier, dim3(1), dim3(32), y.data()) == doctest::Contains("16 of the 32 lanes"));
  CHECK(fault_of(shuffle_once, dim3(1), dim3(48), y.data(), ~0u, 1) == doctest::Contains("16 of the 32 lanes"));
  CHECK(fault_of(shuffle_once, dim3(1), dim3(32), y.data(), 0xffffu, 1) == doctest::Contains("no full warp"));
  CHECK(fault_of(shuffle_once, dim3(1), dim3(32), y.data(), ~0u, 32) == doctest::Contains("no full warp"));
  CHECK(fault_of(early_exit, dim3(1), dim3(1025), 0) == doctest::Contains("no block has 1025 threads"));
  CHECK(fault_of(early_exit, dim3(1, 65536), dim3(32), 0) == doctest::Contains("no grid is 1x65536x1"));
  CHECK(fault_of(early_exit, dim3(0), dim3(32), 0) == doctest::Contains("no grid is 0x1x1"));
  CHECK(fault_of(early_exit, dim3(2), dim3(64), 64) == "no fault");
}
#endif
