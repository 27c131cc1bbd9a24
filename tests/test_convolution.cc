// Convolutions and matrix products: the plain kernels against loops in double precision, the libraries against the plain kernels.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "engine/convolution/convolution.h"
#include "engine/gemm.h"
#include "engine/memory.h"
#include "engine/random.h"

using namespace pipecast;
using doctest::Contains;
using Values = std::vector<float>;

namespace {

#ifdef PIPECAST_ONEDNN
constexpr bool have_onednn = true;
#else
constexpr bool have_onednn = false;
#endif

constexpr float nan_ = std::numeric_limits<float>::quiet_NaN();

Values random_values(int64_t count, uint32_t what) {
  const Random random{1, what, 0};
  Values values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = random.normal(i);
  return values;
}

// |a - b| / |b|; infinite where a is not finite.
template <class Reference>
double distance(const Values& a, const Reference& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    difference += (a[i] - double(b[i])) * (a[i] - double(b[i]));
    norm += double(b[i]) * double(b[i]);
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

// Values on a device, with a margin behind them that nothing may write to.
class OnDevice {
 public:
  OnDevice(Device d, const Values& values) : device_(d), size_(values.size()), memory_(d, int64_t(values.size()) + margin) {
    Values padded = values;
    padded.resize(values.size() + margin, untouched);
    copy(d, memory_.data(), padded.data(), padded.size() * sizeof(float));
    synchronize(d);
  }
  OnDevice(Device d, int64_t count) : OnDevice(d, Values(count, nan_)) {}

  float* data() const { return memory_.data(); }
  Values values() const {
    Values all(size_ + margin);
    copy(device_, all.data(), memory_.data(), all.size() * sizeof(float));
    synchronize(device_);
    REQUIRE(std::count(all.begin() + size_, all.end(), untouched) == margin);
    all.resize(size_);
    return all;
  }

 private:
  static constexpr long margin = 64;
  static constexpr float untouched = 12345;
  Device device_;
  size_t size_;
  Memory memory_;
};

// The host first, then every other device of this build: the emulator of a block of CUDA threads, a GPU.
#ifdef PIPECAST_SIMULATED  // a GPU whose kernels run in the emulator
bool emulated(Device d) { return d.gpu; }
#else
bool emulated(Device d) { return d.gpu && !gpu_present(); }
#endif
std::vector<Device> devices() {
  std::vector<Device> list = {Device{}};
#ifdef PIPECAST_EMULATOR
  list.push_back({true, nullptr, nullptr});
#endif
  if (gpu_present()) {
    static const DeviceOwner gpu("cuda");
    list.push_back(gpu.get());
  }
  return list;
}

// ---------------------------------------------------------------------------------------------------------------------
// Convolution

struct Operands {
  Values x, weight, dy, gradient;  // gradient: what the weights have accumulated before
};

Operands operands(const ConvolutionShape& s) {
  return {random_values(s.in.count(), 1), random_values(s.weight_count(), 2), random_values(s.out().count(), 3),
          random_values(s.weight_count(), 4)};
}

template <class T>
struct Results {
  std::vector<T> y, dx, dweight;
};

// All three directions at once, from the definition: every product of an input and a weight is met exactly once.
Results<double> by_definition(const ConvolutionShape& s, const Operands& o) {
  Results<double> r{std::vector<double>(s.out().count()), std::vector<double>(s.in.count()),
                    std::vector<double>(o.gradient.begin(), o.gradient.end())};
  const int64_t in_width = s.in.c / s.groups, out_width = s.out_channels / s.groups, out_h = s.out_h(), out_w = s.out_w();
  for (int64_t n = 0; n < s.in.n; ++n)
    for (int64_t p = 0; p < out_h; ++p)
      for (int64_t q = 0; q < out_w; ++q)
        for (int64_t k = 0; k < s.out_channels; ++k)
          for (int64_t a = 0; a < s.kernel_h; ++a)
            for (int64_t b = 0; b < s.kernel_w; ++b)
              for (int64_t i = 0; i < in_width; ++i) {
                const int64_t h = p * s.stride - s.padding_h + a * s.dilation, w = q * s.stride - s.padding_w + b * s.dilation;
                if (h < 0 || w < 0 || h >= s.in.h || w >= s.in.w) continue;
                const int64_t at_x = ((n * s.in.h + h) * s.in.w + w) * s.in.c + k / out_width * in_width + i;
                const int64_t at_weight = ((k * s.kernel_h + a) * s.kernel_w + b) * in_width + i;
                const int64_t at_y = ((n * out_h + p) * out_w + q) * s.out_channels + k;
                r.y[at_y] += double(o.x[at_x]) * o.weight[at_weight];
                r.dx[at_x] += double(o.dy[at_y]) * o.weight[at_weight];
                r.dweight[at_weight] += double(o.x[at_x]) * o.dy[at_y];
              }
  return r;
}

// Outputs and workspace begin as NaN.
Results<float> run(Device d, ConvolutionPlan& plan, const ConvolutionShape& s, const Operands& o) {
  const OnDevice x(d, o.x), weight(d, o.weight), dy(d, o.dy), y(d, s.out().count()), dx(d, s.in.count()), dweight(d, o.gradient);
  const OnDevice first(d, plan.workspace()), second(d, plan.workspace()), third(d, plan.workspace());
  plan.forward(d, x.data(), weight.data(), y.data(), first.data());
  plan.backward_input(d, dy.data(), weight.data(), dx.data(), false, second.data());
  plan.backward_weight(d, x.data(), dy.data(), dweight.data(), third.data());
  for (const OnDevice* workspace : {&first, &second, &third}) workspace->values();
  CHECK(x.values() == o.x);
  CHECK(weight.values() == o.weight);
  CHECK(dy.values() == o.dy);
  // Added to what is there.
  const Values before = random_values(s.in.count(), 8), made = dx.values();
  const OnDevice sum(d, before), fourth(d, plan.workspace());
  plan.backward_input(d, dy.data(), weight.data(), sum.data(), true, fourth.data());
  fourth.values();
  std::vector<double> expected(before.begin(), before.end());
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += double(made[i]);
  CHECK(distance(sum.values(), expected) < 2e-6);
  return {y.values(), dx.values(), dweight.values()};
}

template <class T>
void check_close(const Results<float>& results, const Results<T>& reference, double tolerance) {
  CHECK(distance(results.y, reference.y) < tolerance);
  CHECK(distance(results.dx, reference.dx) < tolerance);
  CHECK(distance(results.dweight, reference.dweight) < tolerance);
}

ConvolutionShape convolution(Shape in, int64_t out_channels, int64_t kernel, int64_t stride = 1, int64_t padding = 0, int64_t dilation = 1,
                             int64_t groups = 1) {
  return {in, out_channels, kernel, kernel, stride, padding, padding, dilation, groups};
}

// Odd sizes, every combination that is legal.
std::vector<ConvolutionShape> small_shapes() {
  std::vector<ConvolutionShape> shapes;
  const auto add = [&](const ConvolutionShape& s) {
    if (s.in.h + 2 * s.padding_h > s.dilation * (s.kernel_h - 1) && s.in.w + 2 * s.padding_w > s.dilation * (s.kernel_w - 1))
      shapes.push_back(s);
  };
  for (int64_t stride : {1, 2, 3})
    for (int64_t padding : {0, 1, 2, 3})
      for (int64_t dilation : {1, 2})
        for (int64_t groups : {1, 2, 6})
          for (auto [h, w] : {std::pair<int64_t, int64_t>{7, 5}, {4, 9}, {1, 1}}) {
            add({{2, h, w, 6}, groups == 6 ? 6 : 10, 3, 3, stride, padding, padding, dilation, groups});
            add({{3, h, w, 6}, 12, 1, 1, stride, padding, padding, dilation, groups});
            add({{1, h, w, 6}, 6, 2, 3, stride, padding, std::max<int64_t>(0, padding - 1), dilation, groups});
          }
  return shapes;
}

std::vector<ConvolutionShape> large_shapes() {
  return {
      convolution({4, 32, 32, 3}, 16, 3, 1, 1),         // the stem for images of 32 x 32
      convolution({4, 32, 32, 16}, 16, 3, 1, 1),        //
      convolution({4, 32, 32, 16}, 32, 3, 2, 1),        //
      convolution({8, 16, 16, 32}, 32, 3, 1, 1),        //
      convolution({8, 8, 8, 64}, 64, 3, 1, 1),          //
      convolution({17, 9, 7, 64}, 64, 3, 1, 1),         // sizes that no tile divides
      convolution({3, 15, 13, 48}, 80, 3, 1, 1),        //
      convolution({4, 5, 5, 128}, 128, 3, 1, 1),        //
      convolution({4, 32, 32, 16}, 32, 1, 2),           //
      convolution({4, 16, 16, 64}, 128, 1),             //
      convolution({2, 16, 16, 96}, 33, 1),              //
      convolution({2, 64, 64, 3}, 64, 7, 2, 3),         // the stem for larger ones
      convolution({2, 28, 28, 1}, 6, 5, 1, 2),          //
      convolution({4, 17, 15, 33}, 70, 3, 1, 1),        // channels that no vector divides
      convolution({4, 16, 16, 64}, 64, 3, 1, 2, 2),     // dilated
      convolution({4, 16, 16, 32}, 64, 3, 2, 2, 2),     //
      convolution({4, 16, 16, 64}, 64, 3, 1, 1, 1, 4),  // grouped
      convolution({2, 16, 16, 128}, 128, 3, 1, 1, 1, 32),
      convolution({4, 16, 16, 32}, 32, 3, 2, 1, 1, 32),
  };
}

// Every convolution of ResNet-20 (32 x 32) and of ResNet-18 and -50 (64 x 64), in batches of 8, and some with groups or dilation.
std::vector<ConvolutionShape> network_shapes() {
  std::vector<ConvolutionShape> shapes = {convolution({8, 32, 32, 3}, 16, 3, 1, 1), convolution({8, 64, 64, 3}, 64, 7, 2, 3)};
  int64_t size = 32;
  for (int64_t c : {16, 32, 64}) {
    shapes.push_back(convolution({8, size, size, c}, c, 3, 1, 1));
    if (c < 64) shapes.push_back(convolution({8, size, size, c}, 2 * c, 3, 2, 1));
    if (c < 64) shapes.push_back(convolution({8, size, size, c}, 2 * c, 1, 2));
    size /= 2;
  }
  size = 16;
  for (int64_t c : {64, 128, 256, 512}) {
    const Shape in{8, size, size, c};
    shapes.push_back(convolution(in, c, 3, 1, 1));
    shapes.push_back(convolution(in, 4 * c, 1));
    shapes.push_back(convolution({8, size, size, 4 * c}, c, 1));
    if (c < 512) {
      shapes.push_back(convolution(in, 2 * c, 3, 2, 1));
      shapes.push_back(convolution({8, size, size, 2 * c}, 2 * c, 3, 2, 1));
      shapes.push_back(convolution(in, 2 * c, 1, 2));
      shapes.push_back(convolution({8, size, size, 4 * c}, 2 * c, 1));
      shapes.push_back(convolution({8, size, size, 4 * c}, 8 * c, 1, 2));
    }
    size /= 2;
  }
  for (int64_t groups : {2, 4, 32, 64}) shapes.push_back(convolution({8, 16, 16, 64}, 64, 3, 1, 1, 1, groups));
  for (int64_t stride : {1, 2}) shapes.push_back(convolution({8, 16, 16, 64}, 64, 3, stride, 2, 2));
  return shapes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Matrix products

using Product = void (*)(Device, bool, bool, int64_t, int64_t, int64_t, const float*, const float*, float, float*, RowDistances);

// `gap`: floats between the rows of each matrix, which no product may read as numbers or write to.
void check_gemm(Device d, Product product, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float beta, int64_t gap) {
  CAPTURE(transpose_a);
  CAPTURE(transpose_b);
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(beta);
  CAPTURE(gap);
  struct Matrix {
    int64_t rows, columns, gap;
    Values values;
    Matrix(int64_t rows, int64_t columns, int64_t gap, uint32_t what)
        : rows(rows), columns(columns), gap(gap), values(random_values(rows * (columns + gap), what)) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = columns; c < columns + gap; ++c) values[size_t(r * (columns + gap) + c)] = nan_;
    }
    float& at(int64_t r, int64_t c) { return values[size_t(r * (columns + gap) + c)]; }
  };
  Matrix a(transpose_a ? k : m, transpose_a ? m : k, gap, 5), b(transpose_b ? n : k, transpose_b ? k : n, 2 * gap, 6), c(m, n, 3 * gap, 7);
  std::vector<double> expected(size_t(m * n));
  for (int64_t row = 0; row < m; ++row)
    for (int64_t column = 0; column < n; ++column) {
      double sum = beta == 0 ? 0 : beta * c.at(row, column);
      for (int64_t j = 0; j < k; ++j)
        sum += double(transpose_a ? a.at(j, row) : a.at(row, j)) * (transpose_b ? b.at(column, j) : b.at(j, column));
      expected[size_t(row * n + column)] = sum;
      if (beta == 0) c.at(row, column) = nan_;
    }
  const OnDevice left(d, a.values), right(d, b.values), out(d, c.values);
  product(d, transpose_a, transpose_b, m, n, k, left.data(), right.data(), beta, out.data(),
          {a.columns + a.gap, b.columns + b.gap, c.columns + c.gap});
  c.values = out.values();
  Values result;
  bool gaps_are_whole = true;
  for (int64_t row = 0; row < m; ++row)
    for (int64_t column = 0; column < n + c.gap; ++column)
      if (column < n) result.push_back(c.at(row, column));
      else gaps_are_whole = gaps_are_whole && std::isnan(c.at(row, column));
  CHECK(gaps_are_whole);
  CHECK(distance(result, expected) < 1e-6);
}

}  // namespace

TEST_CASE("the plain convolution is the definition") {
  for (Device d : devices()) {
    for (const ConvolutionShape& s : small_shapes()) {
      CAPTURE(to_string(s));
      const Operands o = operands(s);
      const auto plan = plan_convolution_plain(d, s);
      CHECK(plan->workspace() == 0);
      check_close(run(d, *plan, s, o), by_definition(s, o), 1e-6);
    }
  }
}

namespace {

// Channels in whole steps of a tile or not, rows and columns in one tile or several, phases of a stride that meet no tap.
std::vector<ConvolutionShape> tile_shapes() {
  return {
      convolution({2, 7, 9, 16}, 16, 3, 1, 1),     //
      convolution({3, 12, 12, 16}, 32, 3, 2, 1),   //
      convolution({2, 9, 8, 32}, 16, 3, 1, 1),     //
      convolution({2, 6, 5, 32}, 64, 3, 1, 1),     //
      convolution({1, 12, 11, 64}, 80, 3, 1, 1),   //
      convolution({3, 9, 7, 48}, 64, 3, 2, 1),     //
      convolution({2, 8, 8, 16}, 32, 1, 2),        //
      convolution({1, 6, 6, 64}, 64, 3, 1, 2, 2),  //
      convolution({2, 9, 9, 3}, 16, 3, 1, 1),      //
      convolution({1, 16, 16, 3}, 64, 7, 2, 3),    //
      convolution({2, 9, 10, 20}, 12, 3, 3, 1),    //
      convolution({2, 7, 7, 17}, 70, 3, 1, 1),     //
      convolution({1, 183, 180, 16}, 64, 1),       // so many rows that tiles are large
      {{2, 10, 9, 16}, 16, 2, 3, 1, 1, 1, 1},      //
  };
}

Values rounded_to_bf16(const Values& values) {
  Values rounded(values.size());
  for (size_t i = 0; i < values.size(); ++i) rounded[i] = Bfloat16(values[i]);
  return rounded;
}

// bf16 on a device, read and written as fp32.
class Bf16OnDevice {
 public:
  Bf16OnDevice(Device d, const Values& values) : device_(d), values_(values.begin(), values.end()), memory_(d, int64_t(values.size() + 1) / 2) {
    copy(d, memory_.data(), values_.data(), values_.size() * sizeof(Bfloat16));
    synchronize(d);
  }
  Bfloat16* data() const { return reinterpret_cast<Bfloat16*>(memory_.data()); }
  Values values() const {
    std::vector<Bfloat16> all(values_.size());
    copy(device_, all.data(), memory_.data(), all.size() * sizeof(Bfloat16));
    synchronize(device_);
    return {all.begin(), all.end()};
  }

 private:
  Device device_;
  std::vector<Bfloat16> values_;
  Memory memory_;
};

Results<float> run_bf16(Device d, ConvolutionPlanOf<Bfloat16>& plan, const ConvolutionShape& s, const Operands& o, bool add) {
  const Values before = add ? rounded_to_bf16(random_values(s.in.count(), 8)) : Values(size_t(s.in.count()), nan_);
  const Bf16OnDevice x(d, o.x), dy(d, o.dy), y(d, Values(size_t(s.out().count()), nan_)), dx(d, before);
  const OnDevice weight(d, o.weight), dweight(d, o.gradient), first(d, plan.workspace()), second(d, plan.workspace()), third(d, plan.workspace());
  plan.forward(d, x.data(), weight.data(), y.data(), first.data());
  plan.backward_input(d, dy.data(), weight.data(), dx.data(), add, second.data());
  plan.backward_weight(d, x.data(), dy.data(), dweight.data(), third.data());
  for (const OnDevice* workspace : {&first, &second, &third}) workspace->values();
  return {y.values(), dx.values(), dweight.values()};
}

}  // namespace

TEST_CASE("tiles: the convolution is the definition") {
  for (Device d : devices()) {
    if (!d.gpu) continue;
    std::vector<ConvolutionShape> shapes = tile_shapes();
    for (const ConvolutionShape& s : small_shapes())
      if (s.groups == 1 && s.dilation + s.stride <= 3) shapes.push_back(s);
    for (const ConvolutionShape& s : shapes) {
      const auto plan = plan_convolution_tiles(d, s);
      CAPTURE(to_string(s));
      REQUIRE(plan);
      const Operands o = operands(s);
      check_close(run(d, *plan, s, o), by_definition(s, o), 1e-6);
    }
    CHECK(plan_convolution_tiles(d, convolution({2, 4, 4, 6}, 6, 3, 1, 1, 1, 2)) == nullptr);
    CHECK(plan_convolution_tiles(d, convolution({2, 9, 9, 6}, 6, 9)) == nullptr);
  }
  CHECK(plan_convolution_tiles(Device{}, tile_shapes()[0]) == nullptr);
}

// Rounded images, exact products, sums in fp32, rounded images. What the libraries are given is rounded weights.
TEST_CASE("bf16: every plan for a GPU is the definition with rounded images") {
  for (Device d : devices()) {
    if (!d.gpu) continue;
    std::vector<ConvolutionShape> shapes = tile_shapes();
    if (!emulated(d))
      for (const ConvolutionShape& s : network_shapes()) shapes.push_back(s);
    for (const ConvolutionShape& s : shapes) {
      Operands o = operands(s);
      o.x = rounded_to_bf16(o.x), o.dy = rounded_to_bf16(o.dy);
      const auto whole_weights = s.in.rows() < 5000 || emulated(d) ? by_definition(s, o) : Results<double>{};
      Operands rounded = o;
      rounded.weight = rounded_to_bf16(o.weight);
      const auto tiles = plan_convolution_tiles_bf16(d, s), library = plan_convolution_cudnn_bf16(d, s), chosen = plan_convolution_bf16(d, s);
      CAPTURE(to_string(s));
      if (tiles && !whole_weights.y.empty()) {
        CAPTURE(tiles->implementation());
        const Results<float> results = run_bf16(d, *tiles, s, o, false);
        CHECK(distance(results.y, whole_weights.y) < 3e-3);
        CHECK(distance(results.dx, whole_weights.dx) < 3e-3);
        CHECK(distance(results.dweight, whole_weights.dweight) < 1e-6);
        std::vector<double> sum = whole_weights.dx;
        const Values before = rounded_to_bf16(random_values(s.in.count(), 8));
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += double(before[i]);
        CHECK(distance(run_bf16(d, *tiles, s, o, true).dx, sum) < 3e-3);
      }
      const Results<float> exact = run(Device{}, *plan_convolution(Device{}, s), s, rounded);
      for (auto* plan : {library.get(), chosen.get()}) {
        if (!plan) continue;
        CAPTURE(plan->implementation());
        const Results<float> results = run_bf16(d, *plan, s, o, false);
        CHECK(distance(results.y, exact.y) < 4e-3);
        CHECK(distance(results.dx, exact.dx) < 4e-3);
        CHECK(distance(results.dweight, exact.dweight) < 4e-3);
      }
    }
  }
}

TEST_CASE("the chosen convolution equals the plain one on the host") {
  for (Device d : devices()) {
    std::vector<ConvolutionShape> shapes = small_shapes();
    if (!emulated(d))
      for (const ConvolutionShape& s : large_shapes()) shapes.push_back(s);
    for (const ConvolutionShape& s : shapes) {
      const auto plan = plan_convolution(d, s);
      CAPTURE(to_string(s));
      CAPTURE(plan->implementation());
      const Operands o = operands(s);
      check_close(run(d, *plan, s, o), run(Device{}, *plan_convolution_plain(Device{}, s), s, o), 1e-5);
    }
  }
}

// The input made as it is read. The gradient of the inputs is that of the written ones.
Results<float> run_normalised(ConvolutionPlan& plan, const ConvolutionShape& s, const Operands& o, const Normalised& normalised) {
  Results<float> results = run(Device{}, plan, s, o);
  const OnDevice x(Device{}, o.x), weight(Device{}, o.weight), dy(Device{}, o.dy), y(Device{}, s.out().count());
  const OnDevice dweight(Device{}, o.gradient), workspace(Device{}, plan.workspace());
  plan.forward_normalised(Device{}, x.data(), normalised, weight.data(), y.data(), workspace.data());
  plan.backward_weight_normalised(Device{}, x.data(), normalised, dy.data(), dweight.data(), workspace.data());
  results.y = y.values(), results.dweight = dweight.values();
  return results;
}

TEST_CASE("Winograd's convolution is the definition, whatever the sizes and the number of threads") {
  const int before = threads();
  for (int64_t padding : {0, 1, 2})
    for (auto [h, w] : {std::pair<int64_t, int64_t>{1, 1}, {2, 3}, {4, 4}, {5, 7}, {8, 6}, {13, 9}})
      for (auto [in, out] : {std::pair<int64_t, int64_t>{16, 16}, {16, 48}, {80, 32}})
        for (int64_t n : {1, 7}) {
          const ConvolutionShape s = convolution({n, h, w, in}, out, 3, 1, padding);
          if (s.in.h + 2 * padding < 3 || s.in.w + 2 * padding < 3) continue;
          CAPTURE(to_string(s));
          const Operands o = operands(s);
          set_threads(1);
          const Results<float> alone = run(Device{}, *plan_convolution_winograd(Device{}, s), s, o);
          set_threads(3);
          const Results<float> together = run(Device{}, *plan_convolution_winograd(Device{}, s), s, o);
          const Results<double> expected = by_definition(s, o);
          check_close(alone, expected, 5e-6);
          // An input that is normalised as it is read is one that was written so.
          const Values mean = random_values(in, 5), scale = random_values(in, 6), shift = random_values(in, 7);
          Operands written = o;
          for (int64_t i = 0; i < s.in.count(); ++i) {
            const float v = std::fma(o.x[size_t(i)] - mean[size_t(i % in)], scale[size_t(i % in)], shift[size_t(i % in)]);
            written.x[size_t(i)] = v < 0 ? 0 : v;
          }
          const Normalised normalised{mean.data(), scale.data(), shift.data()};
          check_close(run_normalised(*plan_convolution_winograd(Device{}, s), s, o, normalised), by_definition(s, written), 5e-6);
          check_close(together, expected, 5e-6);
          CHECK(together.y == alone.y);
          CHECK(together.dx == alone.dx);
        }
  set_threads(before);
  CHECK(plan_convolution_winograd(Device{}, convolution({2, 8, 8, 16}, 18, 3, 1, 1)) == nullptr);
  CHECK(plan_convolution_winograd(Device{}, convolution({2, 8, 8, 18}, 16, 3, 1, 1)) == nullptr);
  CHECK(plan_convolution_winograd(Device{}, convolution({2, 8, 8, 16}, 16, 3, 2, 1)) == nullptr);
  CHECK(plan_convolution_winograd(Device{}, convolution({2, 8, 8, 16}, 16, 3, 1, 3)) == nullptr);
  CHECK(plan_convolution_winograd(Device{}, convolution({2, 8, 8, 16}, 16, 3, 1, 1, 2)) == nullptr);
  CHECK(plan_convolution_winograd(Device{}, convolution({2, 8, 8, 16}, 16, 3, 1, 1, 1, 2)) == nullptr);
  CHECK(plan_convolution_winograd(Device{}, convolution({2, 8, 8, 16}, 16, 1)) == nullptr);
}

TEST_CASE("a product for each tap is the definition, whatever of the kernel lies outside the image") {
  std::vector<ConvolutionShape> shapes = small_shapes();
  shapes.push_back(convolution({2, 1, 1, 5}, 3, 1, 2, 1));  // every tap lies outside: nothing but zeros
  shapes.push_back(convolution({3, 1, 1, 5}, 3, 3, 1, 2));  // one tap for each output
  shapes.push_back(convolution({4, 2, 2, 64}, 48, 3, 1, 1));
  shapes.push_back(convolution({4, 4, 4, 48}, 64, 3, 2, 1));
  shapes.push_back(convolution({4, 8, 8, 32}, 64, 1, 2));
  const int before = threads();
  for (const ConvolutionShape& s : shapes) {
    CAPTURE(to_string(s));
    const auto plan = plan_convolution_taps(Device{}, s);
    CHECK((plan == nullptr) == (s.groups != 1));
    if (!plan) continue;
    const Operands o = operands(s);
    const Results<double> expected = by_definition(s, o);
    for (int count : {1, 3}) {
      set_threads(count);
      check_close(run(Device{}, *plan, s, o), expected, 1e-6);
    }
  }
  set_threads(before);
}

TEST_CASE("depthwise is the definition, of any size, stride and padding") {
  std::vector<ConvolutionShape> shapes;
  for (int64_t channels : {1, 4, 19, 32})
    for (int64_t stride : {1, 2, 3})
      for (int64_t padding : {0, 1, 3})
        shapes.push_back({{2, 7, 6, channels}, channels, 3, 3, stride, padding, std::max<int64_t>(0, padding - 1), 1, channels});
  shapes.push_back(convolution({3, 1, 1, 20}, 20, 3, 1, 1, 1, 20));
  shapes.push_back(convolution({5, 33, 35, 36}, 36, 3, 1, 1, 1, 36));
  const int before = threads();
  for (Device d : devices())
    for (const ConvolutionShape& s : shapes) {
      if (emulated(d) && s.out().rows() > 1000) continue;  // no scratch for sums of so many
      CAPTURE(to_string(s));
      const Operands o = operands(s);
      const Results<double> expected = by_definition(s, o);
      const auto plan = plan_convolution_depthwise(d, s);
      REQUIRE(plan);
      if (d.gpu && s.groups > 1) CHECK(plan_convolution(d, s)->implementation() == plan->implementation());
      set_threads(1);
      const Results<float> one = run(d, *plan, s, o);
      check_close(one, expected, 1e-6);
      set_threads(3);
      const Results<float> three = run(d, *plan, s, o);
      CHECK(three.y == one.y);
      CHECK(three.dx == one.dx);
      CHECK(three.dweight == one.dweight);
      set_threads(before);
      if (!d.gpu) continue;
      Operands small = o;
      small.x = rounded_to_bf16(o.x), small.dy = rounded_to_bf16(o.dy);
      check_close(run_bf16(d, *plan_convolution_bf16(d, s), s, small, false), by_definition(s, small), 4e-3);
    }
  const auto declines = [](const ConvolutionShape& s) { return plan_convolution_depthwise(Device{}, s) == nullptr; };
  CHECK(declines(convolution({2, 8, 8, 6}, 12, 3, 1, 1, 1, 6)));
  CHECK(declines(convolution({2, 8, 8, 6}, 6, 3, 1, 1, 1, 3)));
  CHECK(declines(convolution({2, 8, 8, 6}, 6, 3, 1, 2, 2, 6)));
  CHECK(declines(convolution({2, 8, 8, 6}, 6, 5, 1, 2, 1, 6)));
}

TEST_CASE("oneDNN equals the plain convolution" * doctest::skip(!have_onednn)) {
  std::vector<ConvolutionShape> shapes = small_shapes();
  for (const ConvolutionShape& s : large_shapes()) shapes.push_back(s);
  for (const ConvolutionShape& s : shapes) {
    const auto plan = plan_convolution_onednn(Device{}, s);
    CAPTURE(to_string(s));
    CAPTURE(plan->implementation());
    const Operands o = operands(s);
    check_close(run(Device{}, *plan, s, o), run(Device{}, *plan_convolution_plain(Device{}, s), s, o), 1e-5);
  }
}

TEST_CASE("oneDNN runs none of its reference implementations" * doctest::skip(!have_onednn)) {
  for (const ConvolutionShape& s : network_shapes()) {
    CAPTURE(to_string(s));
    const std::string names = plan_convolution_onednn(Device{}, s)->implementation();
    CAPTURE(names);
    CHECK(names.find("ref") == std::string::npos);
  }
}

TEST_CASE("plans of several batch sizes take turns with one workspace, in any thread, and repeat their bits") {
  for (Device d : devices()) {
    const ConvolutionShape small = convolution({3, 8, 8, 32}, 32, 3, 1, 1), large = convolution({8, 8, 8, 32}, 32, 3, 1, 1);
    const auto small_plan = plan_convolution(d, small), large_plan = plan_convolution(d, large);
    const Operands small_operands = operands(small), large_operands = operands(large);
    const Results<float> small_alone = run(d, *small_plan, small, small_operands), large_alone = run(d, *large_plan, large, large_operands);

    const OnDevice workspace(d, std::max(small_plan->workspace(), large_plan->workspace()));
    const auto take_turns = [&] {
      const OnDevice x(d, large_operands.x), weight(d, large_operands.weight), dy(d, large_operands.dy), y(d, large.out().count()),
          dx(d, large.in.count()), dweight(d, large_operands.gradient);
      const OnDevice small_x(d, small_operands.x), small_weight(d, small_operands.weight), small_dy(d, small_operands.dy),
          small_y(d, small.out().count()), small_dx(d, small.in.count()), small_dweight(d, small_operands.gradient);
      large_plan->forward(d, x.data(), weight.data(), y.data(), workspace.data());
      small_plan->backward_weight(d, small_x.data(), small_dy.data(), small_dweight.data(), workspace.data());
      large_plan->backward_input(d, dy.data(), weight.data(), dx.data(), false, workspace.data());
      small_plan->forward(d, small_x.data(), small_weight.data(), small_y.data(), workspace.data());
      large_plan->backward_weight(d, x.data(), dy.data(), dweight.data(), workspace.data());
      small_plan->backward_input(d, small_dy.data(), small_weight.data(), small_dx.data(), false, workspace.data());
      CHECK(y.values() == large_alone.y);
      CHECK(dx.values() == large_alone.dx);
      CHECK(dweight.values() == large_alone.dweight);
      CHECK(small_y.values() == small_alone.y);
      CHECK(small_dx.values() == small_alone.dx);
      CHECK(small_dweight.values() == small_alone.dweight);
    };
    take_turns();
    std::thread(take_turns).join();
  }
}

TEST_CASE("an empty batch has no output and no gradient") {
  for (Device d : devices()) {
    const ConvolutionShape s = convolution({0, 8, 8, 16}, 16, 3, 1, 1);
    const Operands o = operands(s);
    const Results<float> results = run(d, *plan_convolution(d, s), s, o);
    CHECK(results.y.empty());
    CHECK(results.dx.empty());
    CHECK(results.dweight == o.gradient);
  }
}

TEST_CASE("a convolution that cannot be is refused with its shape and the reason") {
  const auto refused = [](const ConvolutionShape& s) -> doctest::String {
    try {
      plan_convolution(Device{}, s);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  CHECK(refused(convolution({2, 2, 5, 8}, 8, 3, 2)) == Contains("3x3 convolution of 2x2x5x8 to 8 channels (stride 2,"));
  CHECK(refused(convolution({2, 2, 5, 8}, 8, 3, 2)) == Contains("the kernel is larger than the padded image"));
  CHECK(refused(convolution({2, 5, 2, 8}, 8, 3)) == Contains("the kernel is larger than the padded image"));
  CHECK(refused(convolution({2, 8, 8, 8}, 8, 3, 1, 0, 4)) == Contains("the kernel is larger than the padded image"));
  CHECK(refused(convolution({2, 8, 8, 8}, 9, 3, 1, 1, 1, 2)) == Contains("groups must divide"));
  CHECK(refused(convolution({2, 8, 8, 9}, 8, 3, 1, 1, 1, 2)) == Contains("groups must divide"));
  CHECK(refused(convolution({2, 8, 8, 8}, 8, 3, 0)) == Contains("stride and dilation must be at least 1"));
  CHECK(refused(convolution({2, 8, 8, 8}, 0, 3)) == Contains("a size is not positive"));
  CHECK(refused(convolution({2, 2, 2, 8}, 8, 3, 1, 1)) == "nothing was thrown");
}

TEST_CASE("matrix products: all transposes, odd sizes, empty ones; beta of 0 ignores what was there") {
  for (Device d : devices()) {
    for (Product product : {&gemm, &gemm_plain})
      for (bool transpose_a : {false, true})
        for (bool transpose_b : {false, true})
          for (float beta : {0.f, 1.f, 0.5f}) {
            for (int64_t gap : {0, 3})
              for (auto [m, n, k] :
                   {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {3, 5, 7}, {17, 33, 9}, {1, 70, 31}, {65, 1, 129}, {2, 3, 0}})
                check_gemm(d, product, transpose_a, transpose_b, m, n, k, beta, gap);
            for (auto [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{0, 3, 2}, {3, 0, 2}, {0, 0, 0}})
              check_gemm(d, product, transpose_a, transpose_b, m, n, k, beta, 0);
          }
  }
}
