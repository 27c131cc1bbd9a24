#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "engine/files/safetensors.h"
#include "engine/memory.h"
#include "optim/gradient_norm.h"
#include "optim/groups.h"
#include "optim/history.h"
#include "optim/moving_average.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

using namespace pipecast;

namespace {

constexpr float nan_ = std::numeric_limits<float>::quiet_NaN();
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// Repeatable numbers in [-1, 1).
struct Numbers {
  uint32_t state;
  float operator()() { return float(int32_t(state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f; }
};

// What the flat buffers of a stage hold, in host memory.
struct Values {
  Floats w, g, predicted;
  std::array<Floats, 2> state;
  std::vector<Matrix> matrices;  // Muon alone looks at them
};

// Weights of order 1, some of them zero, gradients and a plausible state; predicted is poisoned.
Values random_values(const OptimizerOptions& options, int64_t n, uint32_t seed) {
  Numbers number{seed};
  Values v{Floats(n), Floats(n), Floats(n, nan_), {Floats(n), Floats(n)}, {}};
  if (n >= 37) v.matrices = {{16, 2, 8}};
  if (n >= 1025) v.matrices = {{16, 2, 8}, {32, 8, 2}, {96, 24, 20}};
  for (int64_t i = 0; i < n; ++i) {
    v.w[i] = i % 11 == 3 ? 0 : number() + (i % 2 ? 0.5f : -0.5f);
    v.g[i] = number();
    v.state[0][i] = number();
    v.state[1][i] = 0.001f + 0.01f * std::abs(number());
  }
  if (options.name == "rmsprop") std::swap(v.state[0], v.state[1]);  // its mean square comes first
  return v;
}

// Runs one call on a device: values go there and come back.
template <class Call>
void on_device(Device d, const Optimizer& optimizer, bool predict, Values& values, const Call& call) {
  const int64_t n = int64_t(values.w.size());
  Memory w(d, n), g(d, n), predicted(d, n), first(d, n), second(d, n);
  std::pair<Memory*, Floats*> all[] = {
      {&w, &values.w}, {&g, &values.g}, {&predicted, &values.predicted}, {&first, &values.state[0]}, {&second, &values.state[1]}};
  for (auto [memory, host] : all) copy(d, memory->data(), host->data(), host->size() * sizeof(float));
  Memory scratch(d, optimizer.scratch(values.matrices));
  Buffers b{n, w.data(), g.data(), {}, predict ? predicted.data() : nullptr, values.matrices, scratch.data()};
  if (optimizer.states() > 0) b.state[0] = first.data();
  if (optimizer.states() > 1) b.state[1] = second.data();
  call(b);
  for (auto [memory, host] : all) copy(d, host->data(), memory->data(), host->size() * sizeof(float));
  synchronize(d);
}

void step(Device d, const Optimizer& optimizer, Values& values, const Update& update, const LookAhead& ahead, bool predict) {
  on_device(d, optimizer, predict, values, [&](const Buffers& b) { optimizer.step(d, b, update, ahead); });
}
void predict(Device d, const Optimizer& optimizer, Values& values, int64_t t, const LookAhead& ahead) {
  on_device(d, optimizer, true, values, [&](const Buffers& b) { optimizer.predict(d, b, t, ahead); });
}

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * 4));
}
bool same_bits(const Values& a, const Values& b) {
  return same_bits(a.w, b.w) && same_bits(a.g, b.g) && same_bits(a.state[0], b.state[0]) && same_bits(a.state[1], b.state[1]);
}

// The largest difference, in units of max(1, |b|); infinite where one side is not a number.
template <class A, class B>
double difference(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    double d = std::abs(double(a[i]) - double(b[i])) / std::max(1.0, std::abs(double(b[i])));
    most = d <= most ? most : std::isnan(d) ? INFINITY : d;
  }
  return most;
}

OptimizerOptions sgd(float momentum, float decay, float dampening = 0, bool nesterov = false) {
  return {"sgd", momentum, dampening, nesterov, decay, 0.9f, 0.999f, 1e-8f};
}
OptimizerOptions adam(const char* name, float beta1, float beta2, float epsilon, float decay) {
  return {name, 0.9f, 0, false, decay, beta1, beta2, epsilon};
}
OptimizerOptions nadam(float momentum_decay, float epsilon, float decay) {
  return {.name = "nadam", .weight_decay = decay, .epsilon = epsilon, .momentum_decay = momentum_decay};
}
OptimizerOptions rmsprop(float momentum, float alpha, float epsilon, float decay) {
  return {.name = "rmsprop", .momentum = momentum, .weight_decay = decay, .epsilon = epsilon, .alpha = alpha};
}
OptimizerOptions muon(float decay, float epsilon) { return {.name = "muon", .weight_decay = decay, .epsilon = epsilon}; }

const std::vector<OptimizerOptions> all_options = {
    sgd(0, 0),
    sgd(0, 0.1f, 0.3f),
    sgd(0.9f, 0),
    sgd(0.9f, 0.1f),
    sgd(0.8f, 0.1f, 0.3f),
    sgd(0.9f, 0.1f, 0, true),
    adam("adam", 0.9f, 0.999f, 1e-8f, 0),
    adam("adam", 0.8f, 0.99f, 0.05f, 0.1f),
    adam("adamw", 0.9f, 0.999f, 0.05f, 0.1f),
    nadam(0.5f, 0.05f, 0.1f),
    rmsprop(0, 0.99f, 0.01f, 0.1f),
    rmsprop(0.8f, 0.9f, 0.05f, 0.1f),
    muon(0.1f, 0.05f),
};
const LookAheadMode all_modes[] = {LookAheadMode::paper, LookAheadMode::released, LookAheadMode::exact, LookAheadMode::decayed};
const Floats rates = {0.02f, 0.05f, 0.01f, 0.04f, 0.03f, 0.005f, 0.06f};

std::string describe(const OptimizerOptions& o) {
  return o.name + " momentum " + std::to_string(o.momentum) + " dampening " + std::to_string(o.dampening) + " nesterov " +
         std::to_string(o.nesterov) + " decay " + std::to_string(o.weight_decay) + " epsilon " + std::to_string(o.epsilon);
}

// NAdam's weight of the momentum in update number t.
double nadam_mean(const OptimizerOptions& o, double t) {
  auto mu = [&](double i) { return double(o.beta1) * (1 - 0.5 * std::pow(0.96, i * double(o.momentum_decay))); };
  double product = 1;
  for (double i = 1; i <= t + 1; ++i) product *= mu(i);
  return mu(t + 1) / (1 - product);
}

// The factor of Muon's orthogonal step at an element; 0 where it belongs to no matrix.
double muon_scale(const Values& values, size_t element) {
  for (const Matrix& m : values.matrices)
    if (int64_t(element) >= m.offset && int64_t(element) < m.offset + m.rows * m.columns)
      return m.rows > m.columns ? std::sqrt(double(m.rows) / double(m.columns)) : 1;
  return 0;
}

// The look-ahead at one element, from the formulas of docs/look-ahead.md, in double and update by update.
double direct(const OptimizerOptions& o, LookAheadMode mode, int64_t t, std::span<const float> r, const Values& values, size_t element) {
  double w = values.w[element], g = values.g[element], m = values.state[0][element], v = values.state[1][element];
  if (t == 0) return w;
  const double c = o.weight_decay, b1 = o.beta1, b2 = o.beta2, u = o.momentum, s = double(r.size());
  if (r.empty()) return w;
  double sum = 0;
  for (float rate : r) sum += rate;

  if (o.name == "sgd") {
    const double velocity = u > 0 ? m : g;
    if (mode == LookAheadMode::paper) return w - s * r[0] * velocity;
    if (mode == LookAheadMode::exact) return w - sum * velocity;
    if (mode == LookAheadMode::released) return w - s * r[0] * (u > 0 ? u * m + (1 - double(o.dampening)) * g : g);
    for (float rate : r) {
      const double gradient = c * w;
      if (u == 0) w -= rate * gradient;
      else {
        m = u * m + (1 - double(o.dampening)) * gradient;
        w -= rate * (o.nesterov ? gradient + u * m : m);
      }
    }
    return w;
  }
  if (o.name == "rmsprop") {
    std::swap(m, v);
    const double deviation = std::sqrt(v) + o.epsilon, direction = u > 0 ? m : g / deviation;
    if (mode == LookAheadMode::paper) return w - s * r[0] * direction;
    if (mode == LookAheadMode::exact) return w - sum * direction;
    if (mode == LookAheadMode::released) return w - s * r[0] * g / deviation;
    for (float rate : r) m = u * m + c * w / deviation, w -= rate * m;
    return w;
  }
  if (const double scale = muon_scale(values, element); o.name == "muon" && scale > 0) {
    if (mode == LookAheadMode::exact) return w - sum * scale * v;
    if (mode != LookAheadMode::decayed) return w - s * r[0] * scale * v;
    for (float rate : r) w = w * (1 - rate * c) - rate * scale * v;
    return w;
  }
  auto toward = [&](double mean, double updates, double epsilon) {
    return mean / (1 - std::pow(b1, updates)) / (std::sqrt(v) / std::sqrt(1 - std::pow(b2, updates)) + epsilon);
  };
  if (mode == LookAheadMode::paper) return w - s * r[0] * toward(m, double(t), o.epsilon);
  if (mode == LookAheadMode::released) return w - s * r[0] * toward(m, double(t), o.name == "nadam" ? double(o.epsilon) : 1e-8);
  if (mode == LookAheadMode::exact) return w - sum * toward(m, double(t), o.epsilon);
  double updates = double(t);
  for (float rate : r) {
    if (o.name == "adam") m = b1 * m + (1 - b1) * c * w;
    else w *= 1 - rate * c, m = b1 * m;
    ++updates;
    // NAdam has its own weight in place of Adam's bias correction.
    const double weight = o.name == "nadam" ? nadam_mean(o, updates) * (1 - std::pow(b1, updates)) : 1;
    w -= rate * weight * toward(m, updates, o.epsilon);
  }
  return w;
}

// The devices whose results must equal the host's.
std::vector<Device> other_devices() {
  std::vector<Device> devices;
#ifdef PIPECAST_EMULATOR
  static Floats scratch(device_scratch_floats);
  devices.push_back({true, nullptr, scratch.data()});
#endif
  if (gpu_present()) {
    static DeviceOwner gpu("cuda");
    devices.push_back(gpu.get());
  }
  return devices;
}

}  // namespace

TEST_CASE("updates equal PyTorch's") {
  const SafeTensors golden = read_safetensors(GOLDEN_DIR "/optim.safetensors");
  auto tensor = [&](const std::string& name) { return golden.tensors.at(name).floats(); };
  const Floats start = tensor("start"), gradients = tensor("gradients"), golden_rates = tensor("rates");
  const size_t n = start.size();
  const std::pair<const char*, OptimizerOptions> cases[] = {
      {"sgd", sgd(0, 0)},
      {"sgd_decay", sgd(0, 0.1f, 0.3f)},
      {"momentum", sgd(0.9f, 0)},
      {"momentum_decay", sgd(0.9f, 0.1f)},
      {"dampening", sgd(0.9f, 0.1f, 0.3f)},
      {"nesterov", sgd(0.9f, 0.1f, 0, true)},
      {"adam", adam("adam", 0.9f, 0.999f, 1e-8f, 0)},
      {"adam_decay", adam("adam", 0.8f, 0.99f, 1e-3f, 0.1f)},
      {"adamw", adam("adamw", 0.9f, 0.999f, 1e-8f, 0.1f)},
      {"nadam", nadam(0.004f, 1e-8f, 0.1f)},
      {"rmsprop", rmsprop(0, 0.99f, 1e-8f, 0)},
      {"rmsprop_momentum", rmsprop(0.8f, 0.9f, 1e-3f, 0.1f)},
  };
  for (const auto& [name, options] : cases) {
    CAPTURE(name);
    auto optimizer = make_optimizer(options);
    Values values{start, Floats(n), Floats(n), {Floats(n), Floats(n)}, {}};
    Floats kept;
    for (size_t t = 1; t <= golden_rates.size(); ++t) {
      values.g.assign(gradients.begin() + (t - 1) * n, gradients.begin() + t * n);
      step({}, *optimizer, values, {int64_t(t), golden_rates[t - 1]}, {}, false);
      if (t == 1 || t == 2 || t == 12) kept.insert(kept.end(), values.w.begin(), values.w.end());
    }
    CHECK(difference(kept, tensor(std::string(name) + ".weights")) < 1e-6);
    for (int i = 0; i < optimizer->states(); ++i)
      CHECK(difference(values.state[i], tensor(std::string(name) + ".state" + std::to_string(i))) < 1e-6);
    CHECK(golden.tensors.count(std::string(name) + ".state" + std::to_string(optimizer->states())) == 0);
  }
}

TEST_CASE("every look-ahead equals its formula") {
  for (const OptimizerOptions& options : all_options) {
    auto optimizer = make_optimizer(options);
    for (LookAheadMode mode : all_modes)
      for (int64_t t : {0, 1, 2, 9})
        for (size_t s : {0, 1, 3, 7}) {
          CAPTURE(describe(options));
          CAPTURE(to_string(mode));
          CAPTURE(t);
          CAPTURE(s);
          const std::span<const float> ahead(rates.data(), s);
          Values values = random_values(options, 37, 5);
          if (t == 0) values.state[0].assign(37, 0), values.state[1].assign(37, 0);
          Doubles expected(37);
          for (size_t i = 0; i < 37; ++i) expected[i] = direct(options, mode, t, ahead, values, i);
          const Values before = values;
          predict({}, *optimizer, values, t, {mode, ahead});
          CHECK(same_bits(values, before));
          CHECK(difference(values.predicted, expected) < 1e-6);
          if (t == 0 || s == 0) CHECK(difference(values.predicted, values.w) == 0);
        }
  }
}

TEST_CASE("the modes differ where they should, so that comparing them means something") {
  const std::span<const float> ahead(rates.data(), 3);
  for (const OptimizerOptions& options : all_options) {
    CAPTURE(describe(options));
    auto optimizer = make_optimizer(options);
    std::vector<Floats> predicted;
    for (LookAheadMode mode : all_modes) {
      Values values = random_values(options, 37, 5);
      predict({}, *optimizer, values, 4, {mode, ahead});
      predicted.push_back(values.predicted);
    }
    // Paper and released are the same without momentum, for NAdam, and for Adam as far as its epsilon is 1e-8.
    const bool has_momentum = options.name == "sgd" || options.name == "rmsprop";
    const bool same = has_momentum ? options.momentum == 0 : options.name == "nadam" || options.epsilon == 1e-8f;
    for (size_t a = 0; a < 4; ++a)
      for (size_t b = a + 1; b < 4; ++b)
        if (a == 0 && b == 1 && same) CHECK(difference(predicted[a], predicted[b]) == 0);
        else CHECK(difference(predicted[a], predicted[b]) > 1e-3);
  }
}

TEST_CASE("a step that predicts is a step and then a prediction, bit for bit") {
  for (int threads_wanted : {1, 2})
    for (int64_t n : {0, 1, 37, 40009})
      for (const OptimizerOptions& options : all_options)
        for (LookAheadMode mode : all_modes)
          for (size_t s : {0, 3}) {
            if (n == 40009 && s == 0) continue;
            CAPTURE(describe(options));
            CAPTURE(to_string(mode));
            CAPTURE(n);
            const int before = threads();
            set_threads(threads_wanted);
            auto optimizer = make_optimizer(options);
            const LookAhead ahead{mode, {rates.data(), s}};
            Values fused = random_values(options, n, 7), apart = fused;
            for (int64_t t = 3; t <= 4; ++t) {
              step({}, *optimizer, fused, {t, 0.03f}, ahead, true);
              step({}, *optimizer, apart, {t, 0.03f}, ahead, false);
              predict({}, *optimizer, apart, t, ahead);
              CHECK(same_bits(fused, apart));
              CHECK(same_bits(fused.predicted, apart.predicted));
            }
            if (s == 0) CHECK(difference(fused.predicted, fused.w) == 0);
            set_threads(before);
          }
}

TEST_CASE("the number of threads changes no bit") {
  for (const OptimizerOptions& options : all_options) {
    CAPTURE(describe(options));
    auto optimizer = make_optimizer(options);
    const int before = threads();
    Values results[2];
    for (int count : {1, 2}) {
      set_threads(count);
      Values& values = results[count - 1];
      values = random_values(options, 50021, 9);
      step({}, *optimizer, values, {2, 0.03f}, {LookAheadMode::decayed, rates}, true);
    }
    set_threads(before);
    CHECK(same_bits(results[0], results[1]));
    CHECK(same_bits(results[0].predicted, results[1].predicted));
  }
}

TEST_CASE("every device equals the host") {
  for (Device d : other_devices())
    for (const OptimizerOptions& options : all_options)
      for (LookAheadMode mode : all_modes)
        for (int64_t n : {1, 37, 1025}) {
          CAPTURE(describe(options));
          CAPTURE(to_string(mode));
          CAPTURE(n);
          auto optimizer = make_optimizer(options);
          Values host = random_values(options, n, 11), there = host;
          for (int64_t t = 1; t <= 2; ++t) {
            step({}, *optimizer, host, {t, 0.03f}, {mode, rates}, true);
            step(d, *optimizer, there, {t, 0.03f}, {mode, rates}, true);
          }
          CHECK(difference(there.predicted, host.predicted) < 1e-6);
          there.predicted.assign(n, nan_);
          predict(d, *optimizer, there, 2, {mode, rates});
          CHECK(difference(there.w, host.w) < 1e-6);
          CHECK(difference(there.state[0], host.state[0]) < 1e-6);
          CHECK(difference(there.state[1], host.state[1]) < 1e-6);
          CHECK(difference(there.predicted, host.predicted) < 1e-6);
        }
}

TEST_CASE("a factor of the weight decay is another weight decay, bit for bit") {
  for (OptimizerOptions options : all_options)
    for (LookAheadMode mode : all_modes)
      for (float factor : {0.f, 0.25f}) {
        CAPTURE(describe(options));
        CAPTURE(to_string(mode));
        CAPTURE(factor);
        Values with_factor = random_values(options, 1025, 19), direct = with_factor;
        LookAhead ahead{mode, rates};
        ahead.decay = factor;
        auto optimizer = make_optimizer(options);
        step({}, *optimizer, with_factor, {.t = 3, .rate = 0.03f, .decay = factor}, ahead, true);
        options.weight_decay *= factor;
        step({}, *make_optimizer(options), direct, {.t = 3, .rate = 0.03f}, {mode, rates}, true);
        options.weight_decay /= factor > 0 ? factor : 1;
        CHECK(same_bits(with_factor, direct));
        CHECK(same_bits(with_factor.predicted, direct.predicted));
      }
}

namespace {

Segments segments_of(const std::vector<std::pair<std::string, std::vector<int64_t>>>& parameters) {
  Segments segments;
  for (const auto& [name, shape] : parameters) segments.add({name, shape, {}});
  return segments;
}

const Segments network = segments_of({{"conv1.weight", {4, 3, 3, 2}},
                                      {"bn1.weight", {4}},
                                      {"bn1.bias", {4}},
                                      {"layer1.0.conv.weight", {5, 1, 1, 4}},
                                      {"layer1.0.bn.weight", {5}},
                                      {"layer10.weight", {3, 5}},
                                      {"fc.weight", {7, 3}},
                                      {"fc.bias", {7}}});

}  // namespace

TEST_CASE("ranges: what is updated alike and lies together is one, and all of the buffer is in them") {
  CHECK(ranges(Segments{}, {}).empty());
  const std::vector<Range> one = ranges(network, {});
  REQUIRE(one.size() == 1);
  CHECK(one[0].n == network.total);
  CHECK(one[0].matrices.size() == matrices(network).size());

  struct Expected {
    int first;  // parameter
    bool frozen;
    float rate, decay;
  };
  const auto check = [](const GroupOptions& options, const std::vector<Expected>& expected) {
    const std::vector<Range> all = ranges(network, options);
    REQUIRE(all.size() == expected.size());
    int64_t end = 0;
    size_t found = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      CHECK(all[i].begin == end);
      CHECK(all[i].begin == network.offsets[size_t(expected[i].first)]);
      CHECK(all[i].frozen == expected[i].frozen);
      CHECK(all[i].rate == expected[i].rate);
      CHECK(all[i].decay == expected[i].decay);
      for (const Matrix& m : all[i].matrices) {
        CHECK(m.offset + all[i].begin == matrices(network)[found].offset);
        CHECK(m.rows == matrices(network)[found++].rows);
      }
      end += all[i].n;
    }
    CHECK(end == network.total);
    CHECK(found == matrices(network).size());
  };
  check({.frozen = {"conv1", "bn1", "layer1"}}, {{0, true, 1, 1}, {5, false, 1, 1}});  // layer10 is another
  check({.frozen = {"layer1.0.bn.weight"}}, {{0, false, 1, 1}, {4, true, 1, 1}, {5, false, 1, 1}});
  check({.frozen = {"fc"}, .head = {"fc"}, .head_rate = 9}, {{0, false, 1, 1}, {6, true, 1, 1}});  // frozen comes before all else
  check({.head = {"fc"}, .head_rate = 10, .decays_vectors = false},
        {{0, false, 1, 1}, {1, false, 1, 0}, {3, false, 1, 1}, {4, false, 1, 0}, {5, false, 1, 1}, {6, false, 10, 1}, {7, false, 10, 0}});
}

TEST_CASE("groups that cannot be are refused, all mistakes together") {
  const auto refusal = [](const GroupOptions& options) -> std::string {
    try {
      check_groups(network, options);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(refusal({.frozen = {"conv1", "layer1.0"}, .head = {"fc"}, .head_rate = 10}) == "");
  CHECK(refusal({.frozen = {"layr1"}}).find("layr1") != std::string::npos);
  CHECK(refusal({.frozen = {"layer1.0.conv.weigh"}}).find("weigh'") != std::string::npos);  // the beginning of a word is none
  CHECK(refusal({.frozen = {""}}) != "");
  CHECK(refusal({.head_rate = 0}).find("above 0") != std::string::npos);
  CHECK(refusal({.head_rate = nan_}).find("above 0") != std::string::npos);
  CHECK(refusal({.frozen = {"conv1", "bn1", "layer1", "layer10", "fc"}}).find("nothing is left to train") != std::string::npos);
  CHECK(refusal({.frozen = {"layr1"}, .head_rate = -1}).find("above 0") != std::string::npos);
}

TEST_CASE("a step in ranges is that of each range alone") {
  const std::vector<Range> all = ranges(network, {.frozen = {"bn1"}, .head = {"fc"}, .head_rate = 3, .decays_vectors = false});
  for (const OptimizerOptions& options : all_options) {
    CAPTURE(describe(options));
    auto optimizer = make_optimizer(options);
    Values whole = random_values(options, network.total, 23);
    whole.matrices = matrices(network);
    const Values before = whole;
    for (const Range& range : all) {
      Values part;
      const auto cut = [&](const Floats& from) { return Floats(from.begin() + range.begin, from.begin() + range.begin + range.n); };
      part = {cut(before.w), cut(before.g), cut(before.predicted), {cut(before.state[0]), cut(before.state[1])}, range.matrices};
      LookAhead ahead{LookAheadMode::decayed, rates};
      ahead.decay = range.decay;
      const Update update{.t = 4, .rate = 0.03f * range.rate, .decay = range.decay};
      step({}, *optimizer, part, update, ahead, true);
      on_device({}, *optimizer, true, whole, [&](const Buffers& b) { optimizer->step({}, part_of(b, range), update, ahead); });
      CHECK(same_bits(cut(whole.w), part.w));
      CHECK(same_bits(cut(whole.state[0]), part.state[0]));
      CHECK(same_bits(cut(whole.state[1]), part.state[1]));
      CHECK(same_bits(cut(whole.predicted), part.predicted));
    }
  }
}

TEST_CASE("the moving average is the mean of the weights with weights that decay, without the initial ones") {
  std::vector<Device> devices = other_devices();
  devices.push_back({});
  for (Device d : devices)
    for (float decay : {0.f, 0.5f, 0.999f}) {
      const int64_t n = 37;
      Numbers number{29};
      Memory w(d, n), average(d, n);
      Doubles sum(n);
      double weights = 0;
      for (int64_t t = 1; t <= 30; ++t) {
        Floats now(n);
        for (int64_t i = 0; i < n; ++i) now[i] = number(), sum[i] = double(decay) * sum[i] + now[i];
        weights = double(decay) * weights + 1;
        copy(d, w.data(), now.data(), n * sizeof(float));
        move_average(d, n, w.data(), average.data(), decay, t);
        Floats got(n);
        copy(d, got.data(), average.data(), n * sizeof(float));
        synchronize(d);
        Doubles mean(n);
        for (int64_t i = 0; i < n; ++i) mean[i] = sum[i] / weights;
        CHECK(difference(got, mean) < 1e-6);
      }
    }
}

TEST_CASE("decayed is where updates with zero gradients lead") {
  constexpr size_t n = 37;
  std::vector<OptimizerOptions> options = all_options;
  options.push_back(sgd(0.95f, 0.2f, 1));
  options.push_back(sgd(0.5f, 0, 0, true));
  for (const OptimizerOptions& o : options)
    for (size_t s : {1, 3, 7}) {
      if (o.name == "muon") continue;  // holds its direction
      CAPTURE(describe(o));
      CAPTURE(s);
      auto optimizer = make_optimizer(o);
      Values values = random_values(o, n, 13);
      for (Floats& state : values.state) state.assign(n, 0);
      Numbers number{17};
      for (int64_t t = 1; t <= 3; ++t) {
        for (float& g : values.g) g = number();
        step({}, *optimizer, values, {t, 0.05f}, {LookAheadMode::decayed, {rates.data(), s}}, t == 3);
      }
      const bool coupled = o.name == "adam" || o.name == "rmsprop";
      Floats& square = values.state[o.name == "rmsprop" ? 0 : 1];
      const double kept = o.name == "rmsprop" ? o.alpha : o.beta2;
      const Floats held = square;
      values.g.assign(n, 0);
      for (size_t j = 0; j < s; ++j) {
        // The mean square is held: it is set to what this update turns into the value held.
        if (o.name != "sgd")
          for (size_t i = 0; i < n; ++i) {
            double g = coupled ? double(o.weight_decay) * values.w[i] : 0;
            square[i] = float((held[i] - (1 - kept) * g * g) / kept);
          }
        step({}, *optimizer, values, {int64_t(4 + j), rates[j]}, {}, false);
      }
      CHECK(difference(values.predicted, values.w) < 1e-6);
    }
}

TEST_CASE("the decayed look-ahead of Adam and of RMSprop has a limit, and says so") {
  for (const OptimizerOptions& options : {adam("adamw", 0.9f, 0.999f, 1e-8f, 0.1f), rmsprop(0.8f, 0.9f, 1e-3f, 0.1f)}) {
    CAPTURE(describe(options));
    auto optimizer = make_optimizer(options);
    Values values = random_values(options, 5, 3);
    const Floats many(max_look_ahead + 1, 0.001f);
    CHECK_THROWS_AS(predict({}, *optimizer, values, 2, {LookAheadMode::decayed, many}), UsageError);
    const std::span<const float> most(many.data(), max_look_ahead);
    predict({}, *optimizer, values, 2, {LookAheadMode::decayed, most});
    for (size_t i = 0; i < 5; ++i)
      CHECK(values.predicted[i] == doctest::Approx(direct(options, LookAheadMode::decayed, 2, most, values, i)).epsilon(1e-6));
  }
}

TEST_CASE("Muon equals PyTorch's, and AdamW where there is no matrix") {
  const SafeTensors golden = read_safetensors(GOLDEN_DIR "/optim.safetensors");
  Segments segments;
  segments.add({"wide", {3, 8}, {}});
  segments.add({"tall", {12, 5}, {}});
  segments.add({"vector", {7}, {}});
  segments.add({"convolution", {4, 2, 2, 3}, {}});
  const size_t n = size_t(segments.total), packed = golden.tensors.at("muon.start").floats().size();
  // Between a tensor of the file, its parameters one after another, and the flat buffer.
  auto exchange = [&](float* file, Floats& buffer, bool into_buffer) {
    for (size_t i = 0; i < segments.specs.size(); ++i)
      for (int64_t j = 0; j < segments.specs[i].count(); ++j, ++file)
        if (float& place = buffer[size_t(segments.offsets[i] + j)]; into_buffer) place = *file;
        else *file = place;
  };
  auto packed_values = [&](Floats& buffer) {
    Floats file(packed);
    exchange(file.data(), buffer, false);
    return file;
  };
  auto tensor = [&](const char* name) { return golden.tensors.at(name).floats(); };
  Values values{Floats(n), Floats(n), Floats(n), {Floats(n), Floats(n)}, matrices(segments)};
  CHECK(values.matrices.size() == 3);
  Floats start = tensor("muon.start"), gradients = tensor("muon.gradients"), golden_rates = tensor("rates"), kept;
  exchange(start.data(), values.w, true);
  auto optimizer = make_optimizer(muon(0.1f, 1e-8f));
  for (size_t t = 1; t <= golden_rates.size(); ++t) {
    exchange(gradients.data() + (t - 1) * packed, values.g, true);
    step({}, *optimizer, values, {int64_t(t), golden_rates[t - 1]}, {}, false);
    const Floats now = packed_values(values.w);
    if (t == 1 || t == 2 || t == 12) kept.insert(kept.end(), now.begin(), now.end());
  }
  CHECK(difference(kept, tensor("muon.weights")) < 1e-6);
  CHECK(difference(packed_values(values.state[0]), tensor("muon.state0")) < 1e-6);
  CHECK(difference(packed_values(values.state[1]), tensor("muon.state1")) < 1e-5);  // Newton-Schulz magnifies rounding
  // The padding between the parameters stays zero.
  double all = 0, of_parameters = 0;
  for (float w : values.w) all += std::abs(double(w));
  for (float w : packed_values(values.w)) of_parameters += std::abs(double(w));
  CHECK(all == doctest::Approx(of_parameters).epsilon(1e-12));
}

TEST_CASE("spike compensation equals its formula") {
  const OptimizerOptions compensating[] = {sgd(0, 0.1f),
                                           sgd(0.9f, 0.1f),
                                           sgd(0.8f, 0.1f, 0.3f),
                                           adam("adam", 0.8f, 0.99f, 0.05f, 0.1f),
                                           adam("adamw", 0.9f, 0.999f, 0.05f, 0.1f),
                                           rmsprop(0, 0.9f, 0.05f, 0.1f),
                                           rmsprop(0.8f, 0.9f, 0.05f, 0.1f)};
  constexpr size_t n = 37;
  for (const OptimizerOptions& o : compensating)
    for (int late : {1, 3, 7}) {
      CAPTURE(describe(o));
      CAPTURE(late);
      auto optimizer = make_optimizer(o);
      CHECK(optimizer->compensates());
      Values values = random_values(o, n, 19);
      for (Floats& state : values.state) state.assign(n, 0);
      Values in_time = values;
      Doubles w(values.w.begin(), values.w.end()), m(n), v(n);
      Numbers number{23};
      for (int64_t t = 1; t <= 5; ++t) {
        for (size_t i = 0; i < n; ++i) {
          values.g[i] = in_time.g[i] = number();
          const double rate = 0.05f, u = o.momentum, c = o.weight_decay, b1 = o.beta1, b2 = o.beta2;
          // The weights that a gradient has in what moved meanwhile, and in what is left, summed term by term.
          double meanwhile = 0, left = 1, mean_left = 1;
          for (int j = 0; j < late; ++j) meanwhile += left, left *= u, mean_left *= b1;
          double g = values.g[i] + (o.name == "adamw" ? 0 : c * w[i]);
          if (o.name == "sgd") {
            const double share = t == 1 || u == 0 ? 1 : 1 - double(o.dampening);
            m[i] = u * m[i] + share * g;
            w[i] -= rate * (u > 0 ? left * m[i] + meanwhile * share * g : g);
          } else if (o.name == "rmsprop") {
            v[i] = o.alpha * v[i] + (1 - double(o.alpha)) * g * g;
            const double q = g / (std::sqrt(v[i]) + o.epsilon);
            m[i] = u * m[i] + q;
            w[i] -= rate * (u > 0 ? left * m[i] + meanwhile * q : q);
          } else {
            if (o.name == "adamw") w[i] *= 1 - rate * c;
            m[i] = b1 * m[i] + (1 - b1) * g, v[i] = b2 * v[i] + (1 - b2) * g * g;
            const double mean = (mean_left * m[i] + (1 - mean_left) * g) / (1 - std::pow(b1, double(t)));
            w[i] -= rate * mean / (std::sqrt(v[i] / (1 - std::pow(b2, double(t)))) + o.epsilon);
          }
        }
        step({}, *optimizer, values, {t, 0.05f, late}, {LookAheadMode::paper, {rates.data(), 3}}, true);
        step({}, *optimizer, in_time, {t, 0.05f}, {}, false);
      }
      CHECK(difference(values.w, w) < 1e-6);
      const LookAhead ahead{LookAheadMode::paper, {rates.data(), 3}};
      for (size_t i = 0; i < n; ++i)
        CHECK(values.predicted[i] == doctest::Approx(direct(o, ahead.mode, 5, ahead.rates, values, i)).epsilon(1e-5));
      const bool without_momentum = (o.name == "sgd" || o.name == "rmsprop") && o.momentum == 0;
      if (without_momentum) CHECK(same_bits(values, in_time));
      else CHECK(difference(values.w, in_time.w) > 1e-3);
    }
  for (const OptimizerOptions& o : {sgd(0.9f, 0, 0, true), nadam(0.004f, 1e-8f, 0), muon(0, 1e-8f)}) {
    auto optimizer = make_optimizer(o);
    Values values = random_values(o, n, 19);
    CHECK_FALSE(optimizer->compensates());
    CHECK_THROWS_WITH_AS(step({}, *optimizer, values, {2, 0.05f, 1}, {}, false), doctest::Contains("spike compensation"), UsageError);
    step({}, *optimizer, values, {2, 0.05f}, {}, false);
  }
}

TEST_CASE("a scaled gradient is what the update and every look-ahead read") {
  for (const OptimizerOptions& options : all_options)
    for (LookAheadMode mode : all_modes)
      for (float scale : {0.25f, 0.3f}) {
        CAPTURE(describe(options));
        CAPTURE(to_string(mode));
        auto optimizer = make_optimizer(options);
        const LookAhead ahead{mode, {rates.data(), 3}, scale};
        Values scaled = random_values(options, 37, 29), clipped = scaled, apart = scaled;
        for (float& g : clipped.g) g *= scale;
        const Floats gradient = scaled.g;
        step({}, *optimizer, scaled, {2, 0.05f, 0, scale}, {mode, {rates.data(), 3}}, true);
        step({}, *optimizer, clipped, {2, 0.05f}, {mode, {rates.data(), 3}}, true);
        step({}, *optimizer, apart, {2, 0.05f, 0, scale}, {}, false);
        predict({}, *optimizer, apart, 2, ahead);
        CHECK(same_bits(scaled.g, gradient));
        CHECK(same_bits(scaled.w, clipped.w));
        for (int i = 0; i < 2; ++i) CHECK(same_bits(scaled.state[i], clipped.state[i]));
        CHECK(same_bits(scaled.predicted, clipped.predicted));
        CHECK(same_bits(apart.predicted, clipped.predicted));
      }
}

TEST_CASE("the sum of the squares of a gradient") {
  std::vector<Device> devices = other_devices();
  devices.push_back({});
  for (Device d : devices)
    for (int64_t n : {0, 1, 63, 64, 65, 1000, 40013}) {
      CAPTURE(n);
      Numbers number{31};
      Floats values(size_t(n) + 1, nan_);  // what follows the gradient is not read
      double expected = 0;
      for (int64_t i = 0; i < n; ++i) values[size_t(i)] = number(), expected += double(values[size_t(i)]) * values[size_t(i)];
      Memory x(d, n + 1), sums(d, square_sum_floats);
      copy(d, x.data(), values.data(), values.size() * sizeof(float));
      const Floats poison(square_sum_floats, nan_);
      copy(d, sums.data(), poison.data(), poison.size() * sizeof(float));
      synchronize(d);
      double results[2];
      for (int count : {1, 2}) {
        const int before = threads();
        set_threads(count);
        square_sum(d, n, x.data(), sums.data());
        results[count - 1] = read_sum(d, sums.data());
        set_threads(before);
      }
      CHECK(results[0] == results[1]);
      CHECK(std::abs(results[0] - expected) <= 1e-6 * expected);
    }
}

TEST_CASE("a value that is not finite is found wherever it stands, and what is finite is not mistaken for one") {
  std::vector<Device> devices = other_devices();
  devices.push_back({});
  for (Device d : devices)
    for (int64_t n : {0, 1, 63, 64, 65, 1000, 40013}) {
      CAPTURE(n);
      Memory x(d, n + 1), sums(d, square_sum_floats);
      auto finite_with = [&](int64_t place, float value) {
        Floats values(size_t(n) + 1, 3e38f);  // whose sum and squares are not finite
        values[size_t(n)] = nan_;             // what follows is not read
        if (place >= 0) values[size_t(place)] = value;
        copy(d, x.data(), values.data(), values.size() * sizeof(float));
        synchronize(d);
        fill_zero(d, sums.data(), sizeof(float));
        add_differences(d, n, x.data(), sums.data());
        add_differences(d, 0, x.data(), sums.data());  // keeps what was found
        return std::isfinite(read_sum(d, sums.data()));
      };
      CHECK(finite_with(-1, 0));
      for (int64_t place : {int64_t(0), n / 2, n - 1})
        for (float value : {nan_, INFINITY, -INFINITY})
          if (place >= 0 && place < n) CHECK_FALSE(finite_with(place, value));
    }
}

TEST_CASE("looking back equals PipeMare's recurrence") {
  std::vector<Device> devices = other_devices();
  devices.push_back({});
  constexpr size_t n = 37;
  for (Device d : devices)
    for (int tau : {0, 1, 3, 7}) {
      CAPTURE(tau);
      Numbers number{37};
      Floats w(n), corrected(n);
      for (float& x : w) x = number();
      Doubles change(n), expected(n);
      Memory weights(d, n), average(d, n), result(d, n);
      copy(d, average.data(), w.data(), n * sizeof(float));
      const double kept = tau > 0 ? std::pow(0.135, 1.0 / tau) : 0;
      for (int t = 0; t < 20; ++t) {
        for (size_t i = 0; i < n; ++i) {
          const double before = w[i];
          w[i] += 0.1f * number();
          change[i] = kept * change[i] + (1 - kept) * (w[i] - before);
          expected[i] = w[i] - tau * change[i];
        }
        copy(d, weights.data(), w.data(), n * sizeof(float));
        look_back(d, n, weights.data(), average.data(), result.data(), tau);
        copy(d, corrected.data(), result.data(), n * sizeof(float));
        synchronize(d);
        CHECK(difference(corrected, expected) < 2e-6);
        if (tau > 0) CHECK(difference(corrected, w) > 1e-3);
      }
    }
}

TEST_CASE("optimizers and look-aheads are chosen by name, and mistakes are named together") {
  CHECK(optimizer_names() == std::vector<std::string>{"sgd", "adam", "adamw", "nadam", "rmsprop", "muon"});
  CHECK(make_optimizer({})->states() == 1);
  CHECK(make_optimizer(sgd(0, 0))->states() == 0);
  CHECK(make_optimizer(adam("adam", 0.9f, 0.999f, 1e-8f, 0))->states() == 2);
  for (LookAheadMode mode : all_modes) CHECK(look_ahead_mode(to_string(mode)) == mode);
  CHECK(look_ahead_modes().size() == 4);
  CHECK_THROWS_WITH_AS(look_ahead_mode("exat"), doctest::Contains("did you mean 'exact'"), UsageError);

  auto mistakes = [](const OptimizerOptions& options) -> std::string {
    try {
      make_optimizer(options);
    } catch (const UsageError& error) {
      return error.what();
    }
    return {};
  };
  CHECK(make_optimizer(rmsprop(0, 0.99f, 1e-8f, 0))->states() == 1);
  CHECK(make_optimizer(rmsprop(0.9f, 0.99f, 1e-8f, 0))->states() == 2);
  CHECK(mistakes(nadam(-1, 1e-8f, 0)).find("momentum decay is -1") == 0);
  CHECK(mistakes(nadam(nan_, 1e-8f, 0)).find("momentum decay is nan") == 0);
  CHECK(mistakes(rmsprop(0, 1, 1e-8f, 0)).find("alpha is 1") == 0);
  CHECK(mistakes(rmsprop(0, -0.5f, 1e-8f, 0)).find("alpha is -0.5") == 0);
  CHECK(mistakes({}).empty());
  CHECK(mistakes(sgd(0.9f, 0, 1)).empty());
  CHECK(mistakes(adam("adam", 0, 0, 1e-8f, 0)).empty());
  CHECK(mistakes(sgd(1, 0)).find("momentum is 1") == 0);
  CHECK(mistakes(sgd(nan_, 0)).find("momentum is nan") == 0);
  CHECK(mistakes(sgd(-0.1f, 0)).find("momentum") == 0);
  CHECK(mistakes(sgd(0.9f, -1)).find("weight decay") == 0);
  CHECK(mistakes(sgd(0.9f, INFINITY)).find("weight decay") == 0);
  CHECK(mistakes(sgd(0.9f, 0, 1.5f)).find("dampening") == 0);
  CHECK(mistakes(sgd(0.9f, 0, 0.1f, true)).find("Nesterov") == 0);
  CHECK(mistakes(sgd(0, 0, 0, true)).find("Nesterov") == 0);
  CHECK(mistakes(adam("adam", 1, 0.9f, 1e-8f, 0)).find("beta1") == 0);
  CHECK(mistakes(adam("adam", 0.9f, 1, 1e-8f, 0)).find("beta2") == 0);
  CHECK(mistakes(adam("adam", 0.9f, 0.9f, 0, 0)).find("epsilon") == 0);
  const std::string three = mistakes(adam("adan", 2, 0.9f, 0, 0));
  CHECK(three.find("did you mean 'adam'") != std::string::npos);
  CHECK(three.find("\nbeta1 is 2") != std::string::npos);
  CHECK(three.find("\nepsilon is 0") != std::string::npos);
}

TEST_CASE("schedules equal hand-computed points") {
  Schedule s{.name = "constant", .rate = 0.4f, .epochs = 3};
  CHECK(s.at(0, 10) == 0.4f);
  CHECK(s.at(1000, 10) == 0.4f);

  s.warmup_epochs = 0.4;  // four updates
  CHECK(s.at(0, 10) == 0.1f);
  CHECK(s.at(1, 10) == 0.2f);
  CHECK(s.at(3, 10) == 0.4f);
  CHECK(s.at(4, 10) == 0.4f);

  s = {.name = "step", .rate = 0.8f, .step_epochs = 0.3, .gamma = 0.5f};  // every third update of ten
  for (int64_t t = 0; t < 30; ++t) CHECK(s.at(t, 10) == doctest::Approx(0.8 * std::pow(0.5, t / 3)));
  s.step_epochs = 2.5;  // updates 3 and 5 are the nearest to 2.5 and 5 epochs of one update
  for (auto [t, rate] : {std::pair{2, 0.8}, {3, 0.4}, {4, 0.4}, {5, 0.2}}) CHECK(s.at(t, 1) == doctest::Approx(rate));

  s = {.name = "multi-step", .rate = 0.8f, .warmup_epochs = 1.2, .milestones = {1, 1.5, 2.25}, .gamma = 0.5f};
  CHECK(s.at(11, 10) == 0.8f);  // the last of twelve warm-up updates
  CHECK(s.at(12, 10) == doctest::Approx(0.4));
  CHECK(s.at(14, 10) == doctest::Approx(0.4));
  CHECK(s.at(15, 10) == doctest::Approx(0.2));
  CHECK(s.at(22, 10) == doctest::Approx(0.2));
  CHECK(s.at(23, 10) == doctest::Approx(0.1));

  s = {.name = "cosine", .rate = 0.5f, .epochs = 5, .warmup_epochs = 1, .final_rate = 0.1f};
  CHECK(s.at(10, 10) == 0.5f);
  CHECK(s.at(20, 10) == doctest::Approx(0.1 + 0.4 * (1 + std::numbers::sqrt2 / 2) / 2));
  CHECK(s.at(30, 10) == doctest::Approx(0.3));
  CHECK(s.at(50, 10) == doctest::Approx(0.1));
  CHECK(s.at(500, 10) == doctest::Approx(0.1));

  s.name = "polynomial", s.power = 2;
  CHECK(s.at(10, 10) == 0.5f);
  CHECK(s.at(30, 10) == doctest::Approx(0.1 + 0.4 * 0.25));
  CHECK(s.at(50, 10) == doctest::Approx(0.1));
  CHECK(s.at(500, 10) == doctest::Approx(0.1));

  s = {.name = "inverse-sqrt", .rate = 0.5f, .warmup_epochs = 2};  // twenty updates
  for (auto [t, rate] : {std::pair{9, 0.25}, {19, 0.5}, {20, 0.5}, {80, 0.25}, {2000, 0.05}}) CHECK(s.at(t, 10) == doctest::Approx(rate));
  s.warmup_epochs = 0;
  for (auto [t, rate] : {std::pair{0, 0.5}, {1, 0.5}, {4, 0.25}}) CHECK(s.at(t, 10) == doctest::Approx(rate));
}

TEST_CASE("schedules rise through the warm-up, meet the schedule proper without a jump, and then never rise") {
  for (const std::string& name : schedule_names()) {
    CAPTURE(name);
    Schedule s{.name = name, .rate = 0.1f, .epochs = 6, .warmup_epochs = 1.5, .step_epochs = 2, .milestones = {3, 4}};
    s.validate();
    const int64_t updates = 7, warmup = 11;  // 10.5, rounded
    for (int64_t t = 0; t + 1 < warmup; ++t) CHECK(s.at(t + 1, updates) > s.at(t, updates));
    CHECK(s.at(warmup - 1, updates) == 0.1f);
    CHECK(s.at(warmup, updates) == 0.1f);
    for (int64_t t = warmup; t < 50; ++t) CHECK(s.at(t + 1, updates) <= s.at(t, updates));
    if (name == "cosine" || name == "polynomial") {
      for (int64_t t = warmup; t < 42; ++t) CHECK(s.at(t + 1, updates) < s.at(t, updates));
      for (int64_t t = warmup; t < 50; ++t) CHECK(s.at(t, updates) - s.at(t + 1, updates) < 0.1f * 2 / 31);
    }
  }
}

TEST_CASE("schedules equal PyTorch's") {
  const SafeTensors golden = read_safetensors(GOLDEN_DIR "/optim.safetensors");
  const std::pair<const char*, Schedule> cases[] = {
      {"step", {.name = "step", .step_epochs = 1}},
      {"multi-step", {.name = "multi-step", .milestones = {1, 2}, .gamma = 0.2f}},
      {"cosine", {.name = "cosine", .epochs = 3, .final_rate = 0.001f}},
      {"polynomial", {.name = "polynomial", .epochs = 3, .power = 3}},
      {"warm-up cosine", {.name = "cosine", .epochs = 3, .warmup_epochs = 0.6}},
  };
  for (const auto& [name, schedule] : cases) {
    CAPTURE(name);
    const Floats expected = golden.tensors.at(std::string("schedule ") + name).floats();
    REQUIRE(expected.size() == 30);
    for (int64_t t = 0; t < 30; ++t) {
      CAPTURE(t);
      CHECK(std::abs(schedule.at(t, 10) - expected[t]) < 1e-6 * expected[t]);
    }
  }
}

TEST_CASE("a schedule's mistakes are named together") {
  auto mistakes = [](const Schedule& schedule) -> std::string {
    try {
      schedule.validate();
    } catch (const UsageError& error) {
      return error.what();
    }
    return {};
  };
  CHECK(mistakes({}).empty());
  CHECK(mistakes({.warmup_epochs = 5}).empty());
  CHECK(mistakes({.name = "cosin"}).find("did you mean 'cosine'") != std::string::npos);
  CHECK(mistakes({.rate = nan_}).find("learning rate is nan") == 0);
  CHECK(mistakes({.rate = -1}).find("learning rate") == 0);
  CHECK(mistakes({.epochs = 0}).find("the number of epochs") == 0);
  CHECK(mistakes({.warmup_epochs = -1}).find("the number of warm-up epochs") == 0);
  CHECK(mistakes({.step_epochs = 0}).find("the schedule's step") == 0);
  CHECK(mistakes({.gamma = 0}).find("the schedule's gamma") == 0);
  CHECK(mistakes({.power = -1}).find("the schedule's power") == 0);
  CHECK(mistakes({.final_rate = INFINITY}).find("the final learning rate") == 0);
  CHECK(mistakes({.milestones = {-1}}).find("a milestone is -1") == 0);
  CHECK(mistakes({.milestones = {2, 2}}).find("the milestones must rise") == 0);
  CHECK(mistakes({.name = "multi-step"}).find("needs at least one milestone") != std::string::npos);
  CHECK(mistakes({.name = "cosine", .warmup_epochs = 1}).find("the warm-up lasts") == 0);
  const std::string three = mistakes({.name = "lineal", .rate = -1, .gamma = -1});
  CHECK(three.find("unknown learning-rate schedule 'lineal'") == 0);
  CHECK(three.find("\nlearning rate is -1") != std::string::npos);
  CHECK(three.find("\nthe schedule's gamma is -1") != std::string::npos);
}
