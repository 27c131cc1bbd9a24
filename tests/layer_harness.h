#pragma once
// What every layer is held to, over the Layer interface alone. A new layer's test is a line or two:
//
//   check_layer(*relu("relu"), {{2, 3, 3, 17}}, {.kinks = true});   gradients, devices, passes in flight, threads, declared needs
//   check_golden("relu", *relu("relu"));                            every value against PyTorch's, on every device, where GOLDEN_DIR is defined
//
// A layer with integer inputs, and a loss:
//
//   check_layer(*embedding("e", {.vocabulary = 7, .features = 5}), {{3, 5, 1, 1}}, {.below = {7}});
//   check_layer(*softmax_cross_entropy("loss"), {{4, 1, 1, 5}, {4, 1, 1, 1}}, {.below = {0, 5}});
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "engine/files/safetensors.h"
#include "engine/memory.h"
#include "engine/random.h"
#include "layers/layer.h"

namespace pipecast::testing {

using Values = std::vector<float>;

// Calls of operator new so far: a test that includes this file counts them.
inline std::atomic<int64_t> allocations{0};

struct TestDevice {
  std::string name;
  Device device;
};
// The host first, then every other device of this build: the emulator of a block of CUDA threads, a GPU.
inline const std::vector<TestDevice>& test_devices() {
  static std::vector<TestDevice> devices = [] {
    std::vector<TestDevice> list = {{"host", Device{}}};
#ifdef PIPECAST_EMULATOR
    static Memory scratch(Device{}, device_scratch_floats);
    list.push_back({"emulator", Device{.gpu = true, .scratch = scratch.data()}});
#endif
    if (gpu_present()) {
      static DeviceOwner gpu("cuda");
      list.push_back({"cuda", gpu.get()});
    }
    return list;
  }();
  return devices;
}

inline std::string indexed(std::string name, size_t i) { return name.append("[").append(std::to_string(i)).append("]"); }

inline Values noise(int64_t n, uint64_t seed) {
  Values values(size_t(n), 0.f);
  for (size_t i = 0; i < values.size(); ++i) values[i] = Random{seed, purpose("test"), 0}.normal(i);
  return values;
}

// A tensor on a device, between two guards that no kernel may write to.
class Guarded {
 public:
  Guarded(Device device, Values values) : device_(device), size_(values.size()), memory_(device, int64_t(size_) + 2 * guard) {
    set(values);
  }

  float* data() const { return memory_.data() + guard; }
  void set(const Values& values) {
    Values all(guard, sentinel);
    all.insert(all.end(), values.begin(), values.end());
    all.insert(all.end(), guard, sentinel);
    copy(device_, memory_.data(), all.data(), all.size() * sizeof(float));
    synchronize(device_);
  }
  void poison() { set(Values(size_, NAN)); }
  Values get() const {
    Values all(size_ + 2 * guard);
    copy(device_, all.data(), memory_.data(), all.size() * sizeof(float));
    synchronize(device_);
    const auto untouched = [](float v) { return v == sentinel; };
    REQUIRE((std::all_of(all.begin(), all.begin() + guard, untouched) && std::all_of(all.end() - guard, all.end(), untouched)));
    return {all.begin() + guard, all.end() - guard};
  }

 private:
  static constexpr size_t guard = 16;  // floats: what lies between stays aligned
  static constexpr float sentinel = 12345.f;
  Device device_;
  size_t size_;
  Memory memory_;
};

inline std::vector<TensorSpec> specs_of(const std::vector<Shape>& shapes) { return {shapes.begin(), shapes.end()}; }

// What a pass reads and what it makes, on the host, in the order of the layer's inputs, parameters and statistics.
struct Given {
  std::vector<TensorSpec> specs;  // of the inputs
  std::vector<Values> x, weight, statistics;  // an int32 input as the floats with the same bits
  Values dy;                                  // of a loss: 1, and not given to it
};
struct Made {
  Values y;
  Values sums;  // of a loss
  std::vector<Values> dx, dweight, statistics;
};

// Integers in [0, below), as the floats with the same bits.
inline Values integer_noise(int64_t n, uint64_t seed, int32_t below) {
  Values values;
  for (int64_t i = 0; i < n; ++i)
    values.push_back(std::bit_cast<float>(int32_t(Random{seed, purpose("test"), 0}.below(uint64_t(i), uint32_t(below)))));
  return values;
}

// Noise everywhere; statistics positive, as variances are. below: of Options.
inline Given some_given(Layer& layer, const std::vector<Shape>& shapes, uint64_t seed = 1, const std::vector<int32_t>& below = {}) {
  Given given;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const bool integers = i < below.size() && below[i] > 0;
    given.specs.push_back({shapes[i], integers ? Storage::int32 : Storage::fp32});
    ++seed;
    given.x.push_back(integers ? integer_noise(shapes[i].count(), seed, below[i]) : noise(shapes[i].count(), seed));
  }
  for (const ParameterSpec& spec : layer.parameters()) given.weight.push_back(noise(spec.count(), ++seed));
  for (const ParameterSpec& spec : layer.statistics()) {
    given.statistics.push_back(noise(spec.count(), ++seed));
    for (float& v : given.statistics.back()) v = spec.counter ? 3 : 0.5f + std::abs(v);
  }
  const int64_t outputs = layer.output(given.specs).shape.count();
  given.dy = layer.means().empty() ? noise(outputs, ++seed) : Values(size_t(outputs), 1.f);
  return given;
}

// One pass in flight. What forward and backward must assign holds NaN before the call, what they must accumulate holds
// noise, and what the layer did not declare that it keeps is NaN again by the time of backward.
class Flight {
 public:
  // wanted: which inputs somebody wants the gradient of.
  Flight(Layer& layer, Device device, const Given& given, bool training = true, std::vector<bool> wanted = {})
      : layer_(layer), given_(given), needs_(layer.prepare(device, given.specs)) {
    auto buffer = [&](Values values) { return &buffers_.emplace_back(std::make_unique<Guarded>(device, std::move(values)))->data()[0]; };
    auto nothing = [&](int64_t n) { return buffer(Values(size_t(n), NAN)); };
    const Shape out = layer.output(given.specs).shape;
    for (size_t i = 0; i < given.x.size(); ++i) {
      const TensorSpec& spec = given.specs[i];
      x_.push_back({buffer(given.x[i]), spec.shape, spec.storage});
      dx_.push_back({spec.differentiable && (wanted.empty() || wanted[i]) ? nothing(spec.shape.count()) : nullptr, spec.shape, spec.storage});
    }
    for (const Values& w : given.weight) weight_.push_back(buffer(w));
    for (const Values& w : given.weight) dweight_.push_back(buffer(noise(int64_t(w.size()), 99)));
    for (const Values& s : given.statistics) statistics_.push_back(buffer(s));
    pass_.device = device, pass_.training = training, pass_.seed = 7, pass_.step = 3;
    pass_.x = x_, pass_.dx = dx_;
    pass_.y = {nothing(out.count()), out};
    const size_t means = layer.means().size();
    pass_.dy = {means == 0 ? buffer(given.dy) : nullptr, out};
    if (means > 0) pass_.sums = buffer(Values(means, 0.f)), pass_.scale = buffer({1.f});
    pass_.weight = weight_, pass_.dweight = dweight_, pass_.statistics = statistics_;
    pass_.saved = nothing(needs_.saved);
    pass_.workspace = nothing(needs_.workspace);
    pass_.shared = nothing(needs_.shared);
  }

  void forward() {
    const int64_t before = allocations;
    layer_.forward(pass_);
    allocated_ += allocations - before;
    made_.y = at(pass_.y.data).get();
    if (pass_.sums) made_.sums = at(pass_.sums).get();
    for (const float* s : statistics_) made_.statistics.push_back(at(s).get());
    for (size_t i = 0; i < x_.size(); ++i) CHECK(same(at(x_[i].data).get(), given_.x[i]));  // inputs are read only
    for (const Tensor& x : x_)
      if (!needs_.input) at(x.data).poison();
    if (!needs_.output) at(pass_.y.data).poison();
    check_guards();
    if (needs_.workspace) at(pass_.workspace).poison();
    if (needs_.shared) CHECK(same(at(pass_.shared).get(), Values(size_t(needs_.shared), NAN)));  // of deferred passes only
  }
  // In halves: the two calls that make up a backward of a layer that splits.
  void backward(bool in_halves = false) {
    const int64_t before = allocations;
    if (in_halves) backward_in_halves();
    else layer_.backward(pass_);
    allocated_ += allocations - before;
    for (const Tensor& dx : dx_) made_.dx.push_back(dx.data ? at(dx.data).get() : Values());
    for (size_t i = 0; i < weight_.size(); ++i) {
      CHECK(same(at(weight_[i]).get(), given_.weight[i]));
      made_.dweight.push_back(at(dweight_[i]).get());
      const Values prefilled = noise(int64_t(given_.weight[i].size()), 99);
      for (size_t k = 0; k < prefilled.size(); ++k) made_.dweight[i][k] -= prefilled[k];
    }
    if (pass_.dy.data) CHECK(same(at(pass_.dy.data).get(), given_.dy));
    check_guards();
    if (layer_.adds() && dx_[0].data) check_added();
  }
  const Made& made() const { return made_; }
  int64_t allocated() const { return allocated_; }  // calls of operator new by the layer

  static bool same(const Values& a, const Values& b) {  // bit for bit
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                              [](float p, float q) { return std::bit_cast<uint32_t>(p) == std::bit_cast<uint32_t>(q); });
  }

 private:
  // Backward once more, now added to what it assigned: twice that, but for rounding.
  void check_added() {
    const Values once = at(dx_[0].data).get();
    Pass again = pass_;
    again.adds = true;
    if (needs_.workspace) at(pass_.workspace).poison();
    layer_.backward(again);
    const Values twice = at(dx_[0].data).get();
    double norm = 0, error = 0;
    for (size_t i = 0; i < once.size(); ++i) norm += std::pow(double(once[i]), 2), error += std::pow(double(twice[i]) - 2.0 * once[i], 2);
    if (std::isfinite(norm)) CHECK(error <= 1e-12 * norm);
  }
  // Neither half has a use for y, and only the second for x.
  void backward_in_halves() {
    Pass input_half = pass_, weight_half = pass_;
    input_half.dweight = {};
    for (Tensor& x : x_) at(x.data).poison();
    at(pass_.y.data).poison();
    layer_.backward(input_half);
    for (size_t i = 0; i < x_.size(); ++i) at(x_[i].data).set(given_.x[i]);
    std::vector<Tensor> nowhere = dx_;
    for (Tensor& dx : nowhere) dx.data = nullptr;
    weight_half.dx = nowhere;
    if (needs_.workspace) at(pass_.workspace).poison();
    layer_.backward(weight_half);
  }
  void check_guards() const {
    for (const auto& buffer : buffers_) buffer->get();
  }
  Guarded& at(const void* data) {
    for (auto& buffer : buffers_)
      if (buffer->data() == data) return *buffer;
    throw Error("no such buffer");
  }

  Layer& layer_;
  const Given& given_;
  Needs needs_;
  std::vector<std::unique_ptr<Guarded>> buffers_;
  std::vector<Tensor> x_, dx_;
  std::vector<float*> weight_, dweight_, statistics_;
  Pass pass_;
  int64_t allocated_ = 0;
  Made made_;
};

inline Made run(Layer& layer, Device device, const Given& given, std::vector<bool> wanted = {}) {
  Flight flight(layer, device, given, true, std::move(wanted));
  flight.forward();
  flight.backward();
  return flight.made();
}
inline Made evaluate(Layer& layer, Device device, const Given& given) {
  Flight flight(layer, device, given, false);
  flight.forward();
  return flight.made();
}

// Each element within `bound` times the larger of 1 and the tensor's largest value, NaN where NaN is expected.
inline void check_close(const std::string& what, const Values& got, const Values& expected, double bound) {
  INFO(what);
  REQUIRE(got.size() == expected.size());
  double largest = 1, error = 0;
  size_t where = 0;
  for (float v : expected)
    if (std::isfinite(v)) largest = std::max(largest, double(std::abs(v)));
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) continue;
    double e = std::abs(double(got[i]) - double(expected[i])) / largest;
    if (!(e <= error)) error = e, where = i;
    if (std::isnan(e)) break;
  }
  INFO("element ", where, ": ", got.empty() ? 0 : got[where], " for ", got.empty() ? 0 : expected[where]);
  CHECK(error <= bound);
}
inline void check_close(const std::string& what, const Made& got, const Made& expected, double bound) {
  auto all = [&](const std::string& part, const std::vector<Values>& a, const std::vector<Values>& b) {
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i) check_close(indexed(what + " " + part, i), a[i], b[i], bound);
  };
  check_close(what + " y", got.y, expected.y, bound);
  check_close(what + " sums", got.sums, expected.sums, bound);
  all("dx", got.dx, expected.dx);
  all("dweight", got.dweight, expected.dweight);
  all("statistics", got.statistics, expected.statistics);
}
inline bool same(const Made& a, const Made& b) {
  auto all = [](const std::vector<Values>& p, const std::vector<Values>& q) {
    return std::equal(p.begin(), p.end(), q.begin(), q.end(), Flight::same);
  };
  return Flight::same(a.y, b.y) && Flight::same(a.sums, b.sums) && all(a.dx, b.dx) && all(a.dweight, b.dweight) && all(a.statistics, b.statistics);
}

// The Jacobian of y by an input or a parameter `v` of `given`, column by column: central differences at h and h/2, extrapolated
// to order h^4. Where they disagree, or where the left and the right slope do, that output has a kink nearby: smooth[k] = false.
inline std::vector<std::vector<double>> jacobian(Layer& layer, const Given& given, Values& v, std::vector<bool>& smooth) {
  auto f = [&] {
    Flight flight(layer, {}, given);
    flight.forward();
    return flight.made().y;
  };
  const Values middle = f();
  std::vector<std::vector<double>> columns;
  for (float& element : v) {
    struct Slope {
      double slope, jump;
    };
    auto slopes = [&](float h) {
      const float old = element;
      element = old + h;
      const double up = double(element) - double(old);
      const Values right = f();
      element = old - h;
      const double down = double(old) - double(element);
      const Values left = f();
      element = old;
      std::vector<Slope> all;
      for (size_t k = 0; k < middle.size(); ++k) {
        const double r = double(right[k]) - double(middle[k]), l = double(middle[k]) - double(left[k]);
        all.push_back({(r + l) / (up + down), r / up - l / down});
      }
      return all;
    };
    const std::vector<Slope> wide = slopes(0x1p-6f), narrow = slopes(0x1p-7f);
    std::vector<double>& column = columns.emplace_back();
    for (size_t k = 0; k < middle.size(); ++k) {
      column.push_back((4 * narrow[k].slope - wide[k].slope) / 3);
      const double bound = 1e-3 * (1 + std::abs(column[k]));
      if (std::abs(narrow[k].slope - wide[k].slope) > bound || std::abs(2 * narrow[k].jump - wide[k].jump) > bound) smooth[k] = false;
    }
  }
  return columns;
}

// dx and dweight against the Jacobian. Outputs with a kink nearby get a dy of 0; a layer without `kinks` may have none, one
// with them a quarter of its outputs at most. Each element is bounded, and more tightly so the mean.
inline void check_gradients(Layer& layer, Given given, bool kinks) {
  std::vector<bool> smooth(given.dy.size(), true);
  std::vector<std::vector<std::vector<double>>> by_x, by_weight;
  for (size_t i = 0; i < given.x.size(); ++i)
    by_x.push_back(given.specs[i].differentiable ? jacobian(layer, given, given.x[i], smooth) : std::vector<std::vector<double>>());
  for (Values& weight : given.weight) by_weight.push_back(jacobian(layer, given, weight, smooth));
  for (size_t k = 0; k < smooth.size(); ++k)
    if (!smooth[k]) given.dy[k] = 0;
  const auto excluded = size_t(std::count(smooth.begin(), smooth.end(), false));
  CHECK(excluded <= (kinks ? smooth.size() / 4 : 0));

  const Made made = run(layer, {}, given);
  auto check = [&](const std::string& what, const std::vector<std::vector<double>>& columns, const Values& gradient) {
    double total_error = 0, total = 0;
    for (size_t i = 0; i < columns.size(); ++i) {
      const double numeric = std::inner_product(columns[i].begin(), columns[i].end(), given.dy.begin(), 0.);
      const double error = std::abs(double(gradient[i]) - numeric), scale = 1 + std::abs(numeric);
      INFO(what, " element ", i, ": ", gradient[i], " for ", numeric);
      CHECK(error <= 1e-3 * scale);  // false for NaN
      total_error += error, total += scale;
    }
    INFO(what, ": mean error ", total_error / total);
    CHECK(total_error <= 1e-4 * total);
  };
  for (size_t i = 0; i < by_x.size(); ++i) check(indexed("dx", i), by_x[i], made.dx[i]);
  for (size_t i = 0; i < by_weight.size(); ++i) check(indexed("dweight", i), by_weight[i], made.dweight[i]);
}

struct Options {
  bool kinks = false;    // its derivative jumps somewhere
  bool library = false;  // its sums are a library's, which may allocate, and whose order may depend on the number of threads
  // By input: where it is above 0, the input is int32 with values from 0 to below it.
  std::vector<int32_t> below = {};
};

inline void check_layer(Layer& layer, const std::vector<Shape>& shapes, Options options = {}) {
  INFO(layer.kind(), " ", layer.name());
  const Given given = some_given(layer, shapes, 1, options.below), other = some_given(layer, shapes, 100, options.below);
  const Made alone = run(layer, {}, given), other_alone = run(layer, {}, other);

  check_gradients(layer, given, options.kinks);

  for (const TestDevice& on : test_devices()) {
    check_close(on.name + " against host", run(layer, on.device, given), alone, 2e-5);
    check_close(on.name + " against host, evaluation", evaluate(layer, on.device, given), evaluate(layer, {}, given), 2e-5);
  }

  // Two passes in flight, backward in the order of forward, each as if it were alone.
  Flight first(layer, {}, given), second(layer, {}, other);
  first.forward();
  second.forward();
  first.backward();
  second.backward();
  CHECK(same(first.made(), alone));
  CHECK(same(second.made(), other_alone));
  if (!options.library) CHECK(first.allocated() + second.allocated() == 0);  // not the first pass of this layer

  if (layer.splits()) {
    for (const TestDevice& on : test_devices()) {
      Flight halves(layer, on.device, given);
      halves.forward();
      halves.backward(true);
      CHECK(same(halves.made(), run(layer, on.device, given)));
    }
  }

  // The gradient of an input that nobody wants is not computed, and the others do not change.
  for (size_t skipped = 0; skipped < shapes.size(); ++skipped) {
    if (!given.specs[skipped].differentiable) continue;
    std::vector<bool> wanted(shapes.size(), true);
    wanted[skipped] = false;
    Made expected = alone;
    expected.dx[skipped].clear();
    CHECK(same(run(layer, {}, given, wanted), expected));
  }

  // Enough work for two threads.
  if (!options.library) {
    std::vector<Shape> large = shapes;
    for (Shape& shape : large) shape = shape.batch(1 + (int64_t(1) << 17) / (shapes[0].h * shapes[0].w * shapes[0].c));
    const Given many = some_given(layer, large, 1, options.below);
    const int before = threads();
    set_threads(1);
    const Made one = run(layer, {}, many);
    set_threads(2);
    const Made two = run(layer, {}, many);
    set_threads(before);
    CHECK(same(one, two));
  }
}

#ifdef GOLDEN_DIR
// The case of this name in tests/golden/FILE.safetensors, on every device.
inline void check_golden(const std::string& name, Layer& layer, bool training = true, const std::string& file_name = "layers") {
  static std::map<std::string, SafeTensors> files;
  if (!files.contains(file_name)) files[file_name] = read_safetensors(GOLDEN_DIR "/" + file_name + ".safetensors");
  const SafeTensors& file = files.at(file_name);
  auto tensor = [&](const std::string& key) -> const FileTensor& {
    INFO(name, "/", key);
    REQUIRE(file.tensors.contains(name + "/" + key));
    return file.tensors.at(name + "/" + key);
  };
  auto values = [&](const std::string& key) { return tensor(key).floats(); };
  Given given;
  Made expected;
  for (int i = 0; file.tensors.contains(name + "/x" + std::to_string(i)); ++i) {
    const std::string x = std::string("x").append(std::to_string(i));
    const std::vector<int64_t>& s = tensor(x).shape;
    const bool integers = tensor(x).type == "I32";
    given.specs.push_back({Shape{s[0], s[1], s[2], s[3]}, integers ? Storage::int32 : Storage::fp32});
    given.x.push_back(integers ? Values(size_t(tensor(x).count())) : values(x));
    if (integers) std::memcpy(given.x.back().data(), tensor(x).bytes.data(), tensor(x).bytes.size());
    if (training) expected.dx.push_back(integers ? Values() : values("d" + x));
  }
  for (const ParameterSpec& spec : layer.parameters()) {
    INFO(name, ": ", spec.name);
    CHECK(spec.shape == tensor(spec.name).shape);
    given.weight.push_back(values(spec.name));
    if (training) expected.dweight.push_back(values("d" + spec.name));
  }
  for (const ParameterSpec& spec : layer.statistics()) {
    given.statistics.push_back(values("before." + spec.name));
    expected.statistics.push_back(values("after." + spec.name));
  }
  given.dy = values("dy");
  expected.y = values("y");
  const Shape out = layer.output(given.specs).shape;
  CHECK(std::vector<int64_t>{out.n, out.h, out.w, out.c} == tensor("y").shape);
  for (const TestDevice& on : test_devices())
    check_close(name + " on " + on.name, training ? run(layer, on.device, given) : evaluate(layer, on.device, given), expected, 2e-6);
}
#endif

}  // namespace pipecast::testing
