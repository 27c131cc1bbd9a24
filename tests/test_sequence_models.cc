// Models of text and translation: logits and gradients against PyTorch, with lengths that differ, and their stages.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <sstream>

#include "data/batches.h"
#include "layers/layer.h"
#include "message_of.h"
#include "models/models.h"
#include "models/weights.h"
#include "pipeline/train/trainer.h"

using namespace pipecast;
using testing::message_of;

namespace {

// Columns of whole numbers. A sequence that is asked for longer than it is is padded, targets by -100.
class Columns : public Samples {
 public:
  // From the tensors PREFIX.COLUMN of a file.
  Columns(const SafeTensors& file, const std::string& prefix, int64_t more_padding) {
    for (const auto& [name, tensor] : file.tensors) {
      if (!name.starts_with(prefix)) continue;
      const std::vector<float> values = tensor.floats();
      values_.emplace_back(values.begin(), values.end());
      const bool sequence = tensor.shape.size() == 2;
      columns_.push_back({name.substr(prefix.size()), {{1, 1, 1, 1}, Storage::int32}, sequence});
      size_ = tensor.shape[0];
      if (sequence) positions_ = tensor.shape[1];
    }
    lengths_ = {positions_ + more_padding};
  }
  int64_t size() const override { return size_; }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  std::vector<int64_t> lengths() const override { return lengths_; }
  int64_t length(int64_t) const override { return positions_; }
  void read(size_t column, const int32_t* samples, int64_t count, const Reading& reading, void* to) const override {
    int32_t* out = static_cast<int32_t*>(to);
    const int64_t have = columns_[column].sequence ? positions_ : 1, wanted = columns_[column].sequence ? reading.length : 1;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t t = 0; t < wanted; ++t)
        *out++ = t < have ? values_[column][size_t(samples[i] * have + t)] : columns_[column].name == "target" ? -100 : 0;
  }
  void add_to(Sha256&) const override {}

 private:
  std::vector<InputSpec> columns_;
  std::vector<std::vector<int32_t>> values_;
  int64_t size_ = 0, positions_ = 0;
  std::vector<int64_t> lengths_;
};

struct Result {
  std::vector<float> logits;
  double loss = 0;
  Weights gradients;  // in place of the parameters
  std::string digest;
};

// One mini-batch of all samples. The gradients are seen in what one step of plain gradient descent changes, a large one, so that rounding
// does not hide them.
Result train_once(Graph graph, const Weights& weights, std::shared_ptr<const Samples> samples, int stages = 1, int threads = 1) {
  constexpr float rate = 65536;
  TrainerOptions o;
  o.stages = stages, o.batch = samples->size(), o.threads = threads, o.executor = threads > 1 ? "threads" : "sequential";
  o.method = "1f1b-flush";
  o.optimizer = {.name = "sgd", .momentum = 0};
  o.schedule = {.name = "constant", .rate = rate};
  const Batches batches(samples, {.batch = o.batch});
  Trainer trainer(std::move(graph), o, batches.shapes());
  trainer.set_weights(weights);
  Result result;
  trainer.evaluate(batches, &result.logits);
  result.loss = trainer.train(batches, 0, 1).loss;
  result.gradients = trainer.weights();
  result.digest = weights_digest(result.gradients);
  for (size_t i = 0; i < weights.parameter_values.size(); ++i)
    result.gradients.parameter_values[i] = (weights.parameter_values[i] - result.gradients.parameter_values[i]) / rate;
  return result;
}

double norm(const std::vector<float>& values) {
  double sum = 0;
  for (float v : values) sum += double(v) * double(v);
  return std::sqrt(sum);
}
// The norm of the difference, relative to the larger of the norm and `least`.
double distance(const std::vector<float>& ours, const std::vector<float>& theirs, double least = 0) {
  REQUIRE(ours.size() == theirs.size());
  std::vector<float> difference(ours.size());
  for (size_t i = 0; i < ours.size(); ++i) difference[i] = ours[i] - theirs[i];
  return norm(difference) / std::max(norm(theirs), least);
}

// Against the tensors of the file whose names begin so.
void check_against(const Result& ours, const SafeTensors& file, const std::string& prefix) {
  const auto values = [&](const std::string& name) { return file.tensors.at(prefix + name).floats(); };
  CHECK(distance(ours.logits, values("logits")) < 1e-5);
  CHECK(ours.loss == doctest::Approx(values("loss")[0]).epsilon(1e-5));
  const SafeTensors gradients = to_safetensors(ours.gradients);
  double largest = 0, worst = 0;
  for (const auto& [name, tensor] : gradients.tensors) largest = std::max(largest, norm(values("gradient." + name)));
  for (const auto& [name, tensor] : gradients.tensors) {
    CAPTURE(name);
    const double error = distance(tensor.floats(), values("gradient." + name), 1e-4 * largest);
    CHECK(error < 1e-4);
    worst = std::max(worst, error);
  }
  MESSAGE(prefix << " logits " << distance(ours.logits, values("logits")) << ", worst gradient " << worst);
}

const SafeTensors& golden() {
  static const SafeTensors file = read_safetensors(GOLDEN_DIR "/sequence_models.safetensors");
  return file;
}
std::shared_ptr<const Samples> golden_samples(const std::string& model, int64_t more_padding = 0) {
  return std::make_shared<Columns>(golden(), model + "/input.", more_padding);
}
Weights golden_weights(const Graph& graph, const std::string& model) {
  SafeTensors file;
  const std::string prefix = model + "/weight.";
  for (const auto& [name, tensor] : golden().tensors)
    if (name.starts_with(prefix)) file.tensors[name.substr(prefix.size())] = tensor;
  return from_safetensors(graph, file, model);
}

Graph small_model(const std::string& name, float dropout = 0) {
  if (name == "residual-lstm") return residual_lstm({.width = 6, .vocabulary = 13});
  return gnmt({.hidden = 5, .vocabulary = 11, .dropout = dropout, .label_smoothing = 0.1f});
}

int64_t parameters_between(const Graph& graph, const std::string& first, const std::string& end) {
  int from = 0, to = int(graph.nodes().size());
  for (const Part& part : graph.parts()) {
    if (part.name == first) from = part.first;
    if (part.name == end) to = part.first;
  }
  int64_t sum = 0;
  for (const ParameterSpec& spec : graph.collect(from, to, &Layer::parameters).specs) sum += spec.count();
  return sum;
}

}  // namespace

TEST_CASE("small models of sequences: logits, loss and all gradients are PyTorch's, on one stage and on four") {
  for (const std::string name : {"residual-lstm", "gnmt-8"}) {
    CAPTURE(name);
    const Weights weights = golden_weights(small_model(name), name);
    const Result one = train_once(small_model(name), weights, golden_samples(name));
    check_against(one, golden(), name + "/");
    const Result four = train_once(small_model(name), weights, golden_samples(name), 4, 4);
    CHECK(four.digest == one.digest);
    CHECK(four.logits == one.logits);
  }
}

TEST_CASE("small models of sequences: more padding changes no bit") {
  for (const std::string name : {"residual-lstm", "gnmt-8"}) {
    CAPTURE(name);
    const Weights weights = golden_weights(small_model(name), name);
    const Result tight = train_once(small_model(name, 0.3f), weights, golden_samples(name));
    for (const int64_t more : {1, 6, 40})
      CHECK(train_once(small_model(name, 0.3f), weights, golden_samples(name, more)).digest == tight.digest);
  }
}

// By hand: PIPECAST_FULL_SIZE="MODEL WEIGHTS.safetensors OUT.safetensors", see tests/golden/make_sequence_models.py.
TEST_CASE("full size models of sequences against PyTorch") {
  const char* arguments = std::getenv("PIPECAST_FULL_SIZE");
  if (!arguments) return;
  std::string name, weights, out;
  std::istringstream(arguments) >> name >> weights >> out;
  const auto make = [&] {
    if (name == "residual-lstm") return make_model(name, {.classes = 2});
    return gnmt({.name = name, .vocabulary = 10000, .layers = name == "gnmt-8" ? 4 : 8, .dropout = 0});
  };
  const SafeTensors expected = read_safetensors(out);
  const Weights given = from_safetensors(make(), read_safetensors(weights), weights);
  check_against(train_once(make(), given, std::make_shared<Columns>(expected, "input.", 0)), expected, "");
}

TEST_CASE("the published stages of residual-lstm and GNMT") {
  const Graph residual = make_model("residual-lstm", {.classes = 2});
  CHECK(parameters_between(residual, "embedding", "blocks.1") == 1428608);
  CHECK(parameters_between(residual, "blocks.1", "blocks.2") == 148608);
  CHECK(parameters_between(residual, "blocks.3", "") == 148866);
  CHECK(parameters_between(residual, "embedding", "") == 1874690);

  const Graph eight = make_model("gnmt-8", {.vocabulary = 32320}), sixteen = make_model("gnmt-16", {.vocabulary = 32320});
  const auto check = [](const Graph& graph, const std::vector<std::string>& first, const std::vector<int64_t>& parameters) {
    for (size_t k = 0; k < 4; ++k) CHECK(parameters_between(graph, first[k], k + 1 < 4 ? first[k + 1] : "") == parameters[k]);
  };
  check(eight, {"encoder.embedder", "encoder.rnn_layers.2", "decoder.rnn_layers.0", "decoder.rnn_layers.2"},
        {62480384, 60385281, 25182208, 45719104});
  check(sixteen, {"encoder.embedder", "encoder.rnn_layers.5", "decoder.rnn_layers.1", "decoder.rnn_layers.5"},
        {87670784, 81373185, 50364416, 58310208});
  CHECK(message_of<UsageError>([] { gnmt({.layers = 2}); }) ==
        "gnmt-8 cannot have 2 layers of 1024 units: give at least 3 layers of 1 unit");
}
