// A value that is not finite is named where it was made, before it reaches a weight, whatever the method; and left out, it leaves no trace.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "picture_batches.h"
#include "engine/random.h"
#include "layers/layers.h"
#include "models/models.h"
#include "pipeline/run/health.h"
#include "pipeline/train/trainer.h"

using namespace pipecast;
using testing::PictureBatches;

namespace {

// What goes wrong, where and when: in `part`, in the pass with this number (Pass::step).
struct Accident {
  enum Kind { none, output, recomputed_output, input_gradient, weight_gradient } kind = none;
  int part = -1;
  int64_t step = -1;
  float value = std::nanf("");
};

// y = x, with a weight that nothing depends on, but for the accident.
class Fragile : public Layer {
 public:
  Fragile(std::string name, Accident accident, bool splits) : Layer(std::move(name)), accident_(accident), splits_(splits) {}
  const char* kind() const override { return "fragile"; }
  TensorSpec output(std::span<const TensorSpec> x) const override { return x[0]; }
  std::vector<ParameterSpec> parameters() const override { return {{"weight", {3}, {Initial::constant, 1}}}; }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }
  bool splits() const override { return splits_; }

  void forward(const Pass& p) override {
    copy(p.device, p.y.data, p.x[0].data, size_t(p.y.shape.count()) * sizeof(float));
    if (is(p, Accident::output) || (p.replay && is(p, Accident::recomputed_output))) spoil(p, p.y.as<float>() + p.y.shape.count() / 2);
  }
  void backward(const Pass& p) override {
    if (p.dx[0].data) {
      copy(p.device, p.dx[0].data, p.dy.data, size_t(p.dy.shape.count()) * sizeof(float));
      // All of it: a part may go no further than the next ReLU, which is no accident then.
      for (int64_t i = 0; is(p, Accident::input_gradient) && i < p.dy.shape.count(); ++i) spoil(p, p.dx[0].as<float>() + i);
    }
    if (!p.dweight.empty() && is(p, Accident::weight_gradient)) spoil(p, p.dweight[0] + 1);
  }

 private:
  bool is(const Pass& p, Accident::Kind kind) const { return accident_.kind == kind && p.training && int64_t(p.step) == accident_.step; }
  void spoil(const Pass& p, float* place) const {
    copy(p.device, place, &accident_.value, sizeof(float));
    synchronize(p.device);
  }

  Accident accident_;
  bool splits_;
};

constexpr int parts = 4;

// Four parts, each with a layer in which the accident may happen, between others.
Graph fragile_graph(Accident accident = {}, bool splits = false) {
  Graph g("fragile", {1, 6, 6, 3});
  int x = 0;
  for (int k = 0; k < parts; ++k) {
    const std::string part = "part" + std::to_string(k);
    g.part(part);
    x = g.add(convolution(part + ".conv", {.in = k == 0 ? 3 : 4, .out = 4, .kernel = 3, .padding = 1}), {x});
    const int skip = x;
    x = g.add(batch_norm(part + ".bn", {.channels = 4, .relu = true}), {x});
    x = g.add(std::make_unique<Fragile>(part + ".fragile", k == accident.part ? accident : Accident{}, splits), {x});
    x = g.add(convolution(part + ".last", {.in = 4, .out = 4, .kernel = 1, .bias = true}), {x});
    x = g.add(add(part + ".add"), {x, skip});
  }
  x = g.add(global_average_pool("pool"), {x});
  add_classifier_loss(g, g.add(linear("fc", 4, 5), {x}), 0);
  return g;
}

PictureSet noise_data(int64_t count, float deviation = 0.25f) {
  const Shape image{1, 6, 6, 3};
  PictureSet d{"noise", image, 5, {}, {}, {}, {}};
  Random random{7, purpose("noise"), 0};
  d.mean.assign(size_t(image.c), 0.5f), d.deviation.assign(size_t(image.c), deviation);
  for (int64_t i = 0; i < count; ++i) d.train.labels.push_back(int32_t(random.below(uint64_t(1000000 + i), 5)));
  for (int64_t i = 0; i < count * image.count(); ++i) d.train.pixels.push_back(uint8_t(random.below(uint64_t(i), 256)));
  return d;
}

struct Way {
  std::string method;
  int stages = 4, micro_batches = 1, chunks = 0;
};
const std::vector<Way> ways = {{"vanilla"},          {"pipeoptim"},         {"pipeoptim", 2, 2}, {"pipedream-2bw", 4, 4},  {"gpipe", 4, 4},
                               {"1f1b-flush", 4, 4}, {"zero-bubble", 4, 4}, {"vanilla", 1},      {"interleaved", 2, 4, 2}, {"pipemare"}};

TrainerOptions options(const Way& way, const std::string& executor = "threads") {
  TrainerOptions o;
  o.method = way.method, o.stages = way.stages, o.micro_batches = way.micro_batches, o.chunks = way.chunks;
  o.partition.assign(size_t(way.stages * std::max(1, way.chunks)), parts / (way.stages * std::max(1, way.chunks)));
  o.executor = executor;
  o.threads = way.stages;
  o.batch = 8;
  o.schedule = {.name = "constant", .rate = 0.02f};
  o.optimizer.weight_decay = 1e-3f;
  return o;
}

int stage_of(const Way& way, int part) { return part / (parts / (way.stages * std::max(1, way.chunks))) % way.stages; }

// The fault that ends a training of 12 mini-batches.
Diverged fault_of(const Way& way, const std::string& executor, const Accident& accident, Recompute recompute = Recompute::never) {
  const PictureSet data = noise_data(40);
  TrainerOptions o = options(way, executor);
  o.recompute = recompute;
  Trainer trainer(fragile_graph(accident, way.method == "zero-bubble"), o);
  PictureBatches batches(data, data.train, o.batch, true, {}, 1);
  try {
    trainer.train(batches, 0, 4);  // so that the number of a mini-batch is not that of the program
    trainer.train(batches, 4, 12);
  } catch (const Diverged& diverged) {
    return diverged;
  }
  return {"no fault", {}};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool all_finite(const std::vector<float>& values) {
  for (float x : values)
    if (!std::isfinite(x)) return false;
  return true;
}

// The values of the segments whose name begins so.
std::vector<float> values_of(const Segments& segments, const std::vector<float>& values, const std::string& prefix) {
  std::vector<float> found;
  for (size_t k = 0; k < segments.specs.size(); ++k)
    if (segments.specs[k].name.rfind(prefix, 0) == 0)
      found.insert(found.end(), values.begin() + segments.offsets[k], values.begin() + segments.offsets[k] + segments.specs[k].count());
  return found;
}

}  // namespace

TEST_CASE("the layer, stage and pass that made the first value that is not finite are named, in every method") {
  constexpr int64_t minibatch = 6;
  const std::vector<std::pair<Accident::Kind, std::string>> kinds = {
      {Accident::output, "produced a value that is"},
      {Accident::input_gradient, "produced a gradient of its input that is"},
      {Accident::weight_gradient, "produced a gradient of its weight that is"}};
  for (const Way& way : ways)
    for (std::string executor : {"threads", "sequential"})
      for (const auto& [kind, says] : kinds)
        for (int part = 0; part < parts; ++part)
          for (int micro : {0, way.micro_batches - 1}) {
            if (micro > 0 && way.micro_batches == 1) continue;
            CAPTURE(way.method);
            CAPTURE(executor);
            CAPTURE(says);
            const float value = part % 2 ? std::nanf("") : INFINITY;
            const Diverged diverged = fault_of(way, executor, {kind, part, minibatch * way.micro_batches + micro, value});
            CHECK(diverged.fault.layer == "part" + std::to_string(part) + ".fragile");
            CHECK(diverged.fault.stage == stage_of(way, part));
            CHECK(diverged.fault.minibatch == minibatch);
            CHECK(diverged.fault.micro == micro);
            CHECK(diverged.fault.direction == (kind == Accident::output ? "forward" : "backward"));
            const std::string sentence = "part" + std::to_string(part) + ".fragile on stage " + std::to_string(stage_of(way, part)) + " " +
                                         says + " not finite in the " + diverged.fault.direction + " of mini-batch 6" +
                                         (way.micro_batches > 1 ? ", micro-batch " + std::to_string(micro) : "") + "; lower --lr";
            CHECK(std::string(diverged.what()).rfind(sentence, 0) == 0);
          }
  CHECK(std::string(fault_of(ways[0], "threads", {}).what()) == "no fault");
}

TEST_CASE("a forward that goes wrong when it is made again is named as that") {
  for (const Way& way : {Way{"gpipe", 4, 4}, Way{"pipeoptim"}, Way{"vanilla", 1}}) {
    const Diverged diverged = fault_of(way, "threads", {Accident::recomputed_output, 2, 6 * way.micro_batches}, Recompute::always);
    CHECK(diverged.fault.layer == "part2.fragile");
    CHECK(diverged.fault.stage == stage_of(way, 2));
    CHECK(diverged.fault.minibatch == 6);
    CHECK(diverged.fault.direction == "recomputed forward");
  }
}

TEST_CASE("weights, images and sums that are not finite are told from what layers make") {
  const PictureSet data = noise_data(40);
  for (std::string executor : {"threads", "sequential"}) {
    TrainerOptions o = options({"vanilla"}, executor);
    Trainer trainer(fragile_graph(), o);
    PictureBatches batches(data, data.train, o.batch, true, {}, 1);
    trainer.train(batches, 0, 3);
    Weights weights = trainer.weights();
    weights.parameter_values[size_t(weights.parameters.offsets[size_t(weights.parameters.find("part2.last.bias"))])] = INFINITY;
    trainer.set_weights(weights);
    CHECK_THROWS_WITH_AS(trainer.train(batches, 3, 6),
                         doctest::Contains("part2.last on stage 2 was given a bias that is not finite in the forward of mini-batch 3;"),
                         Diverged);

    const PictureSet constant = noise_data(8, 0);  // divides by no deviation
    Trainer blind(fragile_graph(), o);
    CHECK_THROWS_WITH_AS(blind.train(PictureBatches(constant, constant.train, o.batch, true, {}, 1), 0, 2),
                         doctest::Contains("stage 0 was given an input 'image' that is not finite in the forward of mini-batch 0;"), Diverged);
  }
  // Finite, and too large to be squared.
  const Diverged diverged = fault_of({"vanilla"}, "threads", {Accident::weight_gradient, 1, 5, 1e30f});
  CHECK(std::string(diverged.what()).rfind("stage 1 added up a gradient whose norm is not finite in the backward of mini-batch 5;", 0) ==
        0);
}

TEST_CASE("an update that is left out changes no weight, no statistic and no mean, and training goes on") {
  const PictureSet data = noise_data(40);
  constexpr int64_t minibatch = 6;
  for (const Way& way : ways)
    for (std::string executor : {"threads", "sequential"})
      for (Accident::Kind kind : {Accident::output, Accident::input_gradient, Accident::weight_gradient})
        for (std::string optimizer : {"sgd", "adam"}) {
          CAPTURE(way.method);
          CAPTURE(executor);
          CAPTURE(int(kind));
          TrainerOptions o = options(way, executor);
          o.non_finite = NonFinite::skip;
          o.optimizer.name = optimizer;
          o.look_ahead = LookAheadMode::released;  // reads the last gradient
          o.deferred_batch_norm = way.micro_batches > 1;
          Trainer trainer(fragile_graph({kind, 1, minibatch * way.micro_batches}, way.method == "zero-bubble"), o);
          PictureBatches batches(data, data.train, o.batch, true, {}, 1);
          trainer.train(batches, 0, minibatch);
          const Weights before = trainer.weights();
          trainer.summaries();
          trainer.train(batches, minibatch, minibatch + 1);
          const Weights after = trainer.weights();
          const std::vector<StageSummary> summaries = trainer.summaries();
          // Which stages see it: all, in the forward; in the backward those before the accident, unless the method is synchronous.
          const bool synchronous = way.method == "gpipe" || way.method == "1f1b-flush" || way.method == "zero-bubble" ||
                                   way.method == "interleaved" || way.stages == 1;
          for (int part = 0; part < parts; ++part) {
            const int stage = stage_of(way, part), origin = stage_of(way, 1);
            const bool sees =
                synchronous || kind == Accident::output || (kind == Accident::input_gradient ? stage <= origin : stage == origin);
            const std::string name = "part" + std::to_string(part);
            CAPTURE(name);
            CHECK(same_bits(values_of(before.parameters, before.parameter_values, name),
                            values_of(after.parameters, after.parameter_values, name)) == sees);
            CHECK(summaries[size_t(stage)].skipped_updates == sees);
            const bool spoiled = kind == Accident::output && (way.chunks > 1 ? part >= 1 : stage >= origin);
            CHECK(same_bits(values_of(before.statistics, before.statistic_values, name),
                            values_of(after.statistics, after.statistic_values, name)) == spoiled);
          }
          CHECK(trainer.updates() == minibatch + 1);

          Trainer another(fragile_graph({kind, 1, minibatch * way.micro_batches}, way.method == "zero-bubble"), o);
          const Outcome outcome = another.train(batches, 0, 20, [&](int64_t) { CHECK(std::isfinite(another.mean_loss())); });
          CHECK(std::isfinite(outcome.loss));
          CHECK(all_finite(another.weights().parameter_values));
          CHECK(all_finite(another.weights().statistic_values));
          CHECK(another.updates() == 20);
          // The prediction after it is as good as any other: no second update is left out.
          const std::vector<StageSummary> all = another.summaries();
          for (size_t stage = 0; stage < all.size(); ++stage) CHECK(all[stage].skipped_updates == summaries[stage].skipped_updates);
        }
}

TEST_CASE("leaving updates out does not repair weights, and changes nothing where nothing goes wrong") {
  const PictureSet data = noise_data(40);
  for (std::string method : {"pipeoptim", "gpipe"}) {
    TrainerOptions o = options({method, 4, 2});
    auto train = [&](NonFinite mode) {
      o.non_finite = mode;
      Trainer trainer(fragile_graph(), o);
      trainer.train(PictureBatches(data, data.train, o.batch, true, {}, 1), 0, 10);
      return trainer.weights();
    };
    const Weights stop = train(NonFinite::stop), skip = train(NonFinite::skip);
    CHECK(same_bits(stop.parameter_values, skip.parameter_values));
    CHECK(same_bits(stop.statistic_values, skip.statistic_values));

    o.non_finite = NonFinite::skip;
    Trainer trainer(fragile_graph(), o);
    Weights weights = trainer.weights();
    weights.parameter_values[size_t(weights.parameters.offsets[size_t(weights.parameters.find("part2.conv.weight"))])] = NAN;
    trainer.set_weights(weights);
    CHECK_THROWS_WITH_AS(trainer.train(PictureBatches(data, data.train, o.batch, true, {}, 1), 0, 10),
                         doctest::Contains("stage 2 has weights that are not finite before the update of mini-batch"), Diverged);
  }
}

TEST_CASE("the norm of the gradient is that of one update on all stages") {
  const PictureSet data = noise_data(80);
  constexpr int64_t minibatches = 8;
  for (const Way& way : {Way{"vanilla", 1}, Way{"vanilla"}, Way{"gpipe", 4, 4}, Way{"interleaved", 2, 4, 2}, Way{"pipedream-2bw", 2, 4}}) {
    CAPTURE(way.method);
    TrainerOptions o = options(way);
    o.optimizer.momentum = 0, o.optimizer.weight_decay = 0;
    const PictureBatches batches(data, data.train, o.batch, true, {}, 1);
    // What each update moved the weights by: the first updates of a program do not depend on how many follow.
    std::vector<double> norms;
    std::vector<float> before;
    for (int64_t count = 0; count <= minibatches; ++count) {
      Trainer trainer(fragile_graph(), o);
      if (count > 0) trainer.train(batches, 0, count);
      const std::vector<float> after = trainer.weights().parameter_values;
      double sum = 0;
      for (size_t i = 0; i < before.size(); ++i) sum += std::pow((double(after[i]) - before[i]) / o.schedule.rate, 2);
      if (count > 0) norms.push_back(std::sqrt(sum));
      before = after;
    }
    for (std::string executor : {"threads", "sequential"}) {
      o.executor = executor;
      Trainer trainer(fragile_graph(), o);
      // The first stage forwards so many passes before it has back the first: mini-batches, or the micro-batches of one.
      const int64_t late = way.method == "vanilla" ? way.stages : 1;
      trainer.train(batches, 0, minibatches, [&](int64_t done) {
        const int64_t update = done - 1 - late;
        CAPTURE(done);
        if (update < 0) CHECK(std::isnan(trainer.gradient_norm()));
        else CHECK(trainer.gradient_norm() == doctest::Approx(norms[size_t(update)]).epsilon(2e-4));
      });
      // A program begins with what the last one left.
      trainer.train(batches, minibatches, minibatches + 1,
                    [&](int64_t) { CHECK(trainer.gradient_norm() == doctest::Approx(norms.back()).epsilon(2e-4)); });
    }
  }
}
