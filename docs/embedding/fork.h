#pragma once
// A research fork of one file: a layer, a model, a method, an optimizer, a schedule and a data set of its own, added to pipecast by name.
#include <cmath>

#include "data/pictures.h"
#include "engine/launch.h"
#include "engine/random.h"
#include "layers/layers.h"
#include "models/models.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "pipeline/program.h"

namespace mine {

using namespace pipecast;

// ---------------------------------------------------------------------------------------------------------------------
// A layer: SiLU, y = x s(x) with s(x) = 1 / (1 + exp(-x)); dx = dy s(x) (1 + x (1 - s(x))).

struct SiluForward {
  const float* x;
  float* y;
  HD void operator()(int64_t i) const { y[i] = x[i] / (1 + expf(-x[i])); }
};

struct SiluBackward {
  const float *x, *dy;
  float* dx;
  HD void operator()(int64_t i) const {
    const float s = 1 / (1 + expf(-x[i]));
    dx[i] = dy[i] * s * (1 + x[i] * (1 - s));
  }
};

class Silu : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "silu"; }
  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) throw UsageError("layer '" + name() + "' takes one input, not " + std::to_string(x.size()));
    return x[0];
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.input = true}; }  // the backward reads x
  void forward(const Pass& p) override { map(p.device, p.y.shape.count(), SiluForward{p.x[0].as<float>(), p.y.as<float>()}); }
  void backward(const Pass& p) override {
    if (p.dx[0].data) map(p.device, p.y.shape.count(), SiluBackward{p.x[0].as<float>(), p.dy.as<float>(), p.dx[0].as<float>()});
  }
};

inline std::unique_ptr<Layer> silu(std::string name) { return std::make_unique<Silu>(std::move(name)); }

// ---------------------------------------------------------------------------------------------------------------------
// A model: two branches with kernels of 1 and 3, added, in four parts.

inline Graph two_branches(const ModelOptions& o) {
  Graph g("two-branches", o.image);
  constexpr int64_t width = 16;
  g.part("stem");
  int x = g.add(convolution("stem", {.in = o.image.c, .out = width, .kernel = 3, .padding = 1}), {0});
  x = g.add(silu("stem_act"), {g.add(batch_norm("stem_norm", {.channels = width}), {x})});
  g.part("branches");
  const int wide = g.add(silu("wide_act"), {g.add(convolution("wide", {.in = width, .out = width, .kernel = 3, .padding = 1}), {x})});
  const int narrow = g.add(silu("narrow_act"), {g.add(convolution("narrow", {.in = width, .out = width, .kernel = 1}), {x})});
  g.part("join");  // both branches and the stem's value cross the border before it
  x = g.add(add("join_narrow"), {g.add(add("join"), {wide, narrow}), x});
  g.part("head");
  x = g.add(global_average_pool("pool"), {x});
  add_classifier_loss(g, g.add(linear("fc", width, o.classes), {x}), o);
  return g;
}

// ---------------------------------------------------------------------------------------------------------------------
// A method: 1F1B whose forwards read weights predicted half of their lag ahead, and whose backwards read the latest.

inline Program half_ahead(const Setting& setting, int stage) {
  return with_weights(one_forward_one_backward(setting, stage), [](const Reader& reader) {
    return Wanted{.version = reader.live, .ahead = reader.forward() ? (reader.lag + 1) / 2 : 0};
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// An optimizer: Lion (Chen et al. 2023). With m = 0 before the first update:
//
//   w -= r (sign(b1 m + (1 - b1) g) + c w);  m = b2 m + (1 - b2) g
//
// Look-ahead over a distance d: w - d (sign(m) + c w), the update with m in place of the gradient that is not known yet.

HD float sign(float x) { return float((x > 0) - (x < 0)); }

struct LionPredict {
  const float *w, *m;
  float *predicted, distance, decay;
  HD void operator()(int64_t i) const { predicted[i] = w[i] - distance * (sign(m[i]) + decay * w[i]); }
};

struct LionStep {
  float *w, *m;
  const float* g;
  float rate, scale, beta1, beta2, decay;
  HD void operator()(int64_t i) const {
    const float gradient = scale * g[i];
    w[i] -= rate * (sign(beta1 * m[i] + (1 - beta1) * gradient) + decay * w[i]);
    m[i] = beta2 * m[i] + (1 - beta2) * gradient;
  }
};

class Lion : public Optimizer {
 public:
  explicit Lion(const OptimizerOptions& o) : o_(o) {}
  int states() const override { return 1; }
  bool compensates() const override { return false; }
  void predict(Device d, const Buffers& b, int64_t, const LookAhead& ahead) const override {
    map(d, b.n, LionPredict{b.w, b.state[0], b.predicted, float(ahead.distance()), o_.weight_decay});
  }

 private:
  void update(Device d, const Buffers& b, const Update& u, const LookAhead& ahead) const override {
    map(d, b.n, LionStep{b.w, b.state[0], b.g, u.rate, u.gradient_scale, o_.beta1, o_.beta2, o_.weight_decay});
    if (b.predicted) predict(d, b, u.t, ahead);
  }
  OptimizerOptions o_;
};

inline std::unique_ptr<Optimizer> lion(const OptimizerOptions& o) { return std::make_unique<Lion>(o); }

// ---------------------------------------------------------------------------------------------------------------------
// A schedule and a data set.

// r / sqrt(1 + epochs done)
inline double inverse_root(const Schedule& s, const ScheduleProgress& at) {
  return s.rate / std::sqrt(1 + double(at.t) / double(at.updates));
}

// Stripes across or upright, with noise.
inline Pictures stripes(int64_t count, uint64_t seed) {
  Pictures pictures;
  const Random random{seed, purpose("stripes"), 0};
  for (int64_t i = 0; i < count; ++i) {
    pictures.labels.push_back(int32_t(i % 2));
    for (int64_t p = 0; p < 64; ++p) {
      const bool light = (i % 2 ? p / 8 : p % 8) % 2;
      pictures.pixels.push_back(uint8_t((light ? 160 : 32) + random.below(uint64_t(i * 64 + p), 64)));
    }
  }
  return pictures;
}

inline Dataset load_stripes(const std::string&, const DataOptions&) {
  return dataset_of({"stripes", {1, 8, 8, 1}, 2, stripes(512, 1), stripes(128, 2), {0.5f}, {0.25f}});
}

inline void register_all() {
  register_model({"two-branches", "two branches of SiLU, in four parts", two_branches});
  register_method({"half-ahead", "1F1B; the forward reads weights predicted half of its lag ahead", half_ahead});
  register_optimizer({"lion", lion});
  register_schedule({"inverse-root", inverse_root});
  register_dataset({"stripes", "stripes across or upright, no file needed", load_stripes});
}

}  // namespace mine
