// Groups of parameters and the moving average of the weights, in a pipeline that trains.
#include <doctest/doctest.h>

#include <cmath>

#include "models/weights.h"
#include "pipeline/train/trainer.h"
#include "small_run.h"

using namespace pipecast;
using testing::PictureBatches;

namespace {

TrainerOptions options_for(const std::string& method, int stages, int micro_batches) {
  TrainerOptions o;
  const Method& found = find_method(method);
  o.method = method, o.stages = stages, o.micro_batches = micro_batches, o.batch = 8;
  o.optimizer.name = found.optimizer.empty() ? "sgd" : found.optimizer;
  o.optimizer.weight_decay = 0.01f;
  o.schedule.rate = 0.05f;
  o.threads = stages;
  if (method == "interleaved") o.stages = stages / 2, o.chunks = 2;
  return o;
}

std::vector<std::string> devices() {
#ifndef __SANITIZE_THREAD__
  if (gpu_present()) return {"cpu", "cuda"};
#endif
  return {"cpu"};
}

using Values = std::vector<float>;

Values values_of(const Segments& segments, const Values& all, const std::string& name) {
  const size_t i = size_t(segments.find(name));
  const auto begin = all.begin() + segments.offsets[i];
  return {begin, begin + segments.specs[i].count()};
}

Values parameter(const Weights& w, const std::string& name) { return values_of(w.parameters, w.parameter_values, name); }

struct Fixture {
  PictureSet data = testing::noise(48);
  PictureBatches batches{data, data.train, 8, false, {}, 1};
};

double distance(const Values& a, const Values& b) {
  double most = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::fabs(double(a[i]) - b[i])), largest = std::max(largest, std::fabs(double(b[i])));
  return most / largest;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "what is frozen keeps its bits with every method; running statistics move on, as in PyTorch") {
  for (const std::string& device : devices())
    for (const Method& method : methods()) {
      CAPTURE(method.name);
      CAPTURE(device);
      TrainerOptions o = options_for(method.name, 4, 4);
      o.device = device;
      o.groups.frozen = {"conv0", "bn1", "conv2.weight"};
      Trainer trainer(testing::small_graph(3), o);
      const Weights before = trainer.weights();
      trainer.train(batches, 0, 6);
      trainer.train(batches, 6, 12);
      const Weights after = trainer.weights();
      for (const ParameterSpec& spec : before.parameters.specs) {
        CAPTURE(spec.name);
        const bool frozen = spec.name.starts_with("conv0.") || spec.name.starts_with("bn1.") || spec.name == "conv2.weight";
        CHECK((parameter(after, spec.name) == parameter(before, spec.name)) == frozen);
      }
      CHECK(values_of(after.statistics, after.statistic_values, "bn1.running_mean") !=
            values_of(before.statistics, before.statistic_values, "bn1.running_mean"));
    }
}

TEST_CASE_FIXTURE(Fixture, "frozen parameters change nothing for the others, but for their part in the gradient's norm") {
  // With a rate of nearly zero the others' first update is the same, whether conv1 is trained or not.
  const auto move = [&](std::vector<std::string> frozen, float clip_norm) {
    TrainerOptions o = options_for("vanilla", 1, 2);
    o.optimizer = {.name = "sgd", .momentum = 0};
    o.schedule.rate = 1;
    o.groups.frozen = std::move(frozen), o.clip_norm = clip_norm;
    Trainer trainer(testing::small_graph(2), o);
    Weights moved = trainer.weights();
    trainer.train(batches, 0, 1);
    const Weights after = trainer.weights();
    for (size_t i = 0; i < moved.parameter_values.size(); ++i) moved.parameter_values[i] -= after.parameter_values[i];
    return moved;
  };
  const Weights all = move({}, 0), frozen = move({"conv1", "bn1.bias"}, 0), limited = move({"conv1", "bn1.bias"}, 0.01f);
  for (const std::string name : {"conv0.weight", "bn0.weight", "bn0.bias", "bn1.weight", "fc.weight", "fc.bias"}) {
    CAPTURE(name);
    CHECK(parameter(frozen, name) == parameter(all, name));
  }
  double square = 0;
  for (float g : limited.parameter_values) square += double(g) * g;
  CHECK(std::sqrt(square) == doctest::Approx(0.01).epsilon(1e-4));
}

TEST_CASE_FIXTURE(Fixture, "weight decay is left off norms and biases where that is asked for, on every stage") {
  const auto trained = [&](bool decays_vectors, float decay) {
    TrainerOptions o = options_for("pipeoptim", 4, 1);
    o.optimizer.weight_decay = decay, o.groups.decays_vectors = decays_vectors;
    Trainer trainer(testing::small_graph(3), o);
    trainer.train(batches, 0, 1);  // later, what one parameter has become changes the gradients of the others
    return trainer.weights();
  };
  const Weights none = trained(true, 0), all = trained(true, 0.5f), matrices = trained(false, 0.5f);
  for (const ParameterSpec& spec : none.parameters.specs) {
    CAPTURE(spec.name);
    CHECK(parameter(matrices, spec.name) == parameter(spec.shape.size() > 1 ? all : none, spec.name));
    if (spec.name == "bn0.weight") CHECK(parameter(all, spec.name) != parameter(none, spec.name));
  }
}

TEST_CASE_FIXTURE(
    Fixture, "the moving average is that of the weights after each update; it is evaluated and handed out, and training does not read it") {
  const double decay = 0.8;
  TrainerOptions o = options_for("vanilla", 1, 1);
  Trainer plain(testing::small_graph(3), o);
  o.moving_average = float(decay);
  Trainer averaging(testing::small_graph(3), o);
  CHECK(weights_digest(averaging.weights()) == weights_digest(plain.weights()));  // before the first update
  CHECK(averaging.evaluate(batches).loss == plain.evaluate(batches).loss);

  std::vector<double> sum(plain.weights().parameter_values.size());
  double total = 0;
  for (int64_t i = 0; i < 9; ++i) {
    plain.train(batches, i, i + 1);
    averaging.train(batches, i, i + 1);
    const Values now = plain.weights().parameter_values;
    for (size_t e = 0; e < sum.size(); ++e) sum[e] = decay * sum[e] + now[e];
    total = decay * total + 1;
  }
  Values mean;
  for (double s : sum) mean.push_back(float(s / total));
  const Weights weights = averaging.weights();
  CHECK(distance(weights.parameter_values, mean) < 1e-6);
  CHECK(distance(plain.weights().parameter_values, mean) > 1e-3);
  CHECK(weights.statistic_values == plain.weights().statistic_values);

  Trainer other(testing::small_graph(3), options_for("vanilla", 1, 1));
  other.set_weights(weights);
  CHECK(averaging.evaluate(batches).loss == other.evaluate(batches).loss);
  CHECK(averaging.evaluate(batches).loss != plain.evaluate(batches).loss);

  // On four stages, from what one stage saved: with nothing in flight the pipeline computes what one stage does.
  o = options_for("gpipe", 4, 1);
  o.moving_average = float(decay);
  Trainer four(testing::small_graph(3), o);
  four.restore(averaging.save());
  CHECK(weights_digest(four.weights()) == weights_digest(weights));
  averaging.train(batches, 9, 12);
  four.train(batches, 9, 12);
  CHECK(weights_digest(four.weights()) == weights_digest(averaging.weights()));
}

TEST_CASE("groups and averages that cannot be are refused with a sentence") {
  const auto refused = [](const auto& change) {
    TrainerOptions o = options_for("vanilla", 1, 1);
    change(o);
    CHECK_THROWS_AS(Trainer(testing::small_graph(2), o), UsageError);
  };
  refused([](TrainerOptions& o) { o.moving_average = 1; });
  refused([](TrainerOptions& o) { o.moving_average = -0.1f; });
  refused([](TrainerOptions& o) { o.groups.frozen = {"conv9"}; });
  refused([](TrainerOptions& o) { o.groups.head = {"fc"}, o.groups.head_rate = 0; });
}
