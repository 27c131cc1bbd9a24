// The transformers against transformers' own and PyTorch (tests/golden/make_text_models.py), their files, tied weights, and pipelines of
// them.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "data/columns.h"
#include "engine/files/safetensors.h"
#include "engine/random.h"
#include "message_of.h"
#include "model_pass.h"
#include "models/models.h"
#include "models/weights.h"
#include "pipeline/train/trainer.h"

using namespace pipecast;
using testing::message_of;

namespace {

constexpr int64_t samples = 4, longest = 9, vocabulary = 19;

Gpt2Options tiny_gpt2(bool tied = true, float dropout = 0) {
  return {.features = 8, .layers = 2, .heads = 2, .positions = 12, .vocabulary = vocabulary, .tied = tied, .dropout = dropout};
}
RobertaOptions tiny_roberta(float dropout = 0) {
  return {.features = 8, .layers = 2, .heads = 2, .positions = 12, .vocabulary = vocabulary, .classes = 3, .dropout = dropout};
}
TransformerOptions tiny_transformer(float dropout = 0) {
  return {.features = 8, .blocks = 2, .heads = 2, .positions = 12, .vocabulary = vocabulary, .classes = 3, .dropout = dropout};
}

const SafeTensors& golden() {
  static const SafeTensors file = read_safetensors(GOLDEN_DIR "/text_models.safetensors");
  return file;
}

// The tensors whose names begin so, without that.
SafeTensors golden_part(const std::string& beginning) {
  SafeTensors part;
  for (const auto& [name, tensor] : golden().tensors)
    if (name.starts_with(beginning)) part.tensors[name.substr(beginning.size())] = tensor;
  return part;
}

std::vector<int32_t> integers(const std::string& name) {
  const FileTensor& tensor = golden().tensors.at(name);
  std::vector<int32_t> values(size_t(tensor.count()));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

// More positions behind each row.
std::vector<int32_t> pad(const std::vector<int32_t>& rows, int64_t length, int32_t with) {
  std::vector<int32_t> padded;
  for (int64_t n = 0; n < samples; ++n) {
    padded.insert(padded.end(), rows.begin() + n * longest, rows.begin() + (n + 1) * longest);
    padded.insert(padded.end(), size_t(length - longest), with);
  }
  return padded;
}

testing::Inputs inputs_of(const std::string& model, int64_t length = longest) {
  testing::Inputs inputs = {{"tokens", pad(integers(model + "/tokens"), length, 1)}, {"length", integers(model + "/length")}};
  if (model == "gpt2") inputs["target"] = pad(integers(model + "/target"), length, -100);
  else inputs["label"] = integers(model + "/label");
  return inputs;
}

double error_of(const std::vector<float>& ours, const std::vector<float>& theirs) {
  REQUIRE(ours.size() == theirs.size());
  double largest = 0, error = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    REQUIRE(std::isfinite(ours[i]));
    largest = std::max(largest, std::abs(double(theirs[i]))), error = std::max(error, std::abs(double(ours[i]) - double(theirs[i])));
  }
  return error / largest;
}

// Logits, loss and all gradients within 1e-4 of the largest of each tensor.
void check_model(const std::string& name, const Graph& graph) {
  CAPTURE(name);
  const Weights weights = from_safetensors(graph, golden_part(name + "/weights/"), name);
  const testing::ModelPass made = testing::run_model(graph, weights, inputs_of(name), {samples, longest}, true);
  std::vector<float> logits = made.prediction;
  if (name == "gpt2")
    for (size_t i = 0; i < logits.size(); ++i)
      if (const size_t row = i / vocabulary; int32_t(row % longest) >= integers(name + "/length")[row / longest]) logits[i] = 0;
  CHECK(error_of(logits, golden().tensors.at(name + "/logits").floats()) < 1e-5);
  CHECK(made.loss == doctest::Approx(golden().tensors.at(name + "/loss").floats()[0]).epsilon(1e-6));
  const SafeTensors expected = golden_part(name + "/gradients/"), gradients = to_safetensors(made.gradients);
  REQUIRE(gradients.tensors.size() == expected.tensors.size());
  // The gradient of a key's bias is zero, and what is computed for it is rounding.
  for (const auto& [parameter, tensor] : expected.tensors) {
    CAPTURE(parameter);
    if (parameter.ends_with("key.bias")) continue;
    CHECK(error_of(gradients.tensors.at(parameter).floats(), tensor.floats()) < 1e-4);
  }
  // More padding: the same loss and gradients, bit for bit.
  const testing::ModelPass wide = testing::run_model(graph, weights, inputs_of(name, 12), {samples, 12}, true);
  CHECK(weights_digest(wide.gradients) == weights_digest(made.gradients));
  CHECK(wide.loss == made.loss);
}

}  // namespace

TEST_CASE("logits, loss and gradients are those of transformers, with lengths that differ; padding changes no bit") {
  check_model("gpt2", gpt2(tiny_gpt2()));
  check_model("roberta", roberta(tiny_roberta()));
  check_model("transformer", transformer(tiny_transformer()));
}

TEST_CASE("tied weights: one tensor with the sum of both gradients; untied they begin as one and part") {
  const Graph tied = gpt2(tiny_gpt2()), untied = gpt2(tiny_gpt2(false));
  CHECK(tied.parameters().find("lm_head.weight") < 0);
  CHECK(untied.parameters().find("lm_head.weight") >= 0);
  const SafeTensors file = golden_part("gpt2/weights/");
  const Weights of_tied = from_safetensors(tied, file, "file"), of_untied = from_safetensors(untied, file, "file");
  const auto made = testing::run_model(tied, of_tied, inputs_of("gpt2"), {samples, longest}, true);
  const auto parted = testing::run_model(untied, of_untied, inputs_of("gpt2"), {samples, longest}, true);
  CHECK(parted.prediction == made.prediction);
  const std::vector<float> sum = to_safetensors(made.gradients).tensors.at("transformer.wte.weight").floats();
  const SafeTensors both = to_safetensors(parted.gradients);
  std::vector<float> added = both.tensors.at("transformer.wte.weight").floats();
  const std::vector<float> head = both.tensors.at("lm_head.weight").floats();
  for (size_t i = 0; i < added.size(); ++i) added[i] += head[i];
  CHECK(error_of(sum, added) < 1e-6);
}

TEST_CASE("files of the body alone, with masks, with other heads") {
  const std::vector<float> mask(12 * 12, 1.f);
  SafeTensors file = golden_part("gpt2/weights/transformer.");
  for (const char* name : {"h.0.attn.bias", "h.1.attn.bias"}) file.tensors[name] = FileTensor::f32({1, 1, 12, 12}, mask.data());
  const Graph tied = gpt2(tiny_gpt2());
  CHECK(weights_digest(from_safetensors(tied, file, "file")) ==
        weights_digest(from_safetensors(tied, golden_part("gpt2/weights/"), "file")));
  file.tensors["h.2.attn.bias"] = file.tensors["h.1.attn.bias"];
  CHECK_THROWS_AS(from_safetensors(tied, file, "file"), UsageError);

  const Graph graph = roberta(tiny_roberta());
  SafeTensors body = golden_part("roberta/weights/roberta.");
  const int64_t places[12] = {};
  body.tensors["embeddings.position_ids"] = FileTensor::i64({1, 12}, places);
  body.tensors["pooler.dense.bias"] = FileTensor::f32({8}, mask.data());
  CHECK(message_of<UsageError>([&] { from_safetensors(graph, body, "file"); }) ==
        "weights 'file' do not fit model 'roberta-base' (tensors 4 missing: classifier.dense.weight, classifier.dense.bias, "
        "classifier.out_proj.weight, ...): give the file's own model and number of classes");
  const std::vector<RenewedLayer> renewed = renew(body, graph, {"classifier.out_proj"}, 5);
  REQUIRE(renewed.size() == 2);
  CHECK(renewed[0].name == "classifier.dense");
  CHECK(renewed[1].outputs_in_file == 0);
  const SafeTensors got = to_safetensors(from_safetensors(graph, body, "file")), fresh = to_safetensors(initial_weights(graph, 5)),
                    given = golden_part("roberta/weights/");
  for (const auto& [name, tensor] : got.tensors)
    CHECK(tensor.bytes == (name.starts_with("classifier.") ? fresh.tensors : given.tensors).at(name).bytes);
  SafeTensors masked_language = golden_part("roberta/weights/");
  masked_language.tensors["lm_head.bias"] = FileTensor::f32({8}, mask.data());
  from_safetensors(graph, masked_language, "file");
}

namespace {

// Rows of random lengths; each token follows from the one before it.
std::shared_ptr<const Samples> some_rows(int64_t count, std::vector<int64_t> lengths) {
  auto owner = std::make_shared<std::vector<std::vector<int32_t>>>(4);
  std::vector<std::vector<int32_t>>& c = *owner;
  const Random random{4, purpose("rows"), 0};
  for (int64_t i = 0; i < count; ++i) {
    const int32_t length = 1 + int32_t(random.below(uint64_t(2 * i), 9)), first = 3 + int32_t(random.below(uint64_t(2 * i + 1), 16));
    for (int32_t t = 0; t < length; ++t) c[0].push_back(3 + (first + 5 * t) % 16), c[1].push_back(3 + (first + 5 * t + 5) % 16);
    c[2].push_back(length), c[3].push_back(first % 3);
  }
  return column_samples({{"tokens", WholeNumbers(std::span<const int32_t>(c[0])), "length", 0},
                         {"target", WholeNumbers(std::span<const int32_t>(c[1])), "length", -100},
                         {"length", WholeNumbers(std::span<const int32_t>(c[2]))},
                         {"label", WholeNumbers(std::span<const int32_t>(c[3]))}},
                        std::move(lengths), owner, "rows");
}

TrainerOptions options_of(int stages) {
  TrainerOptions o;
  o.stages = stages, o.batch = 8, o.executor = "sequential", o.threads = 1;
  o.optimizer = {.name = "adam"};
  o.schedule = {.name = "constant", .rate = 0.01f};
  return o;
}

struct Trained {
  std::string digest;
  double loss;
};
Trained train(Graph graph, TrainerOptions o, std::vector<int64_t> lengths = {9}, int epochs = 2) {
  Batches batches(some_rows(60, std::move(lengths)), {.batch = o.batch, .shuffle = true, .seed = 3});
  Trainer trainer(std::move(graph), o, batches.shapes());
  trainer.train(batches, 0, epochs * batches.per_epoch());
  return {weights_digest(trainer.weights()), trainer.evaluate(batches).loss};
}

}  // namespace

TEST_CASE("pipelines of transformers: as on one stage where synchronous, with dropout; threads as in sequence; padding changes no bit") {
  for (const auto make : {+[](float rate) { return gpt2(tiny_gpt2(false, rate)); }, +[](float rate) { return roberta(tiny_roberta(rate)); },
                          +[](float rate) { return transformer(tiny_transformer(rate)); }}) {
    CAPTURE(make(0).name());
    TrainerOptions one = options_of(1), three = options_of(3);
    one.method = three.method = "1f1b-flush";
    one.micro_batches = three.micro_batches = 2;
    CHECK(train(make(0.2f), one).digest == train(make(0.2f), three).digest);
    three.method = "pipeoptim";
    const Trained sequential = train(make(0.2f), three);
    three.executor = "threads", three.threads = 3;
    CHECK(train(make(0.2f), three).digest == sequential.digest);
  }
  CHECK(train(gpt2(tiny_gpt2(false, 0.2f)), options_of(3), {12}).digest == train(gpt2(tiny_gpt2(false, 0.2f)), options_of(3), {9}).digest);
}

TEST_CASE("GPT-2 learns which token follows, tied on one stage and untied on three") {
  CHECK(train(gpt2(tiny_gpt2()), options_of(1), {9}, 20).loss < 0.3);
  CHECK(train(gpt2(tiny_gpt2(false)), options_of(3), {9}, 20).loss < 0.3);
}

TEST_CASE("tied weights on several stages are refused in one sentence") {
  CHECK(message_of<UsageError>([] { train(gpt2(tiny_gpt2()), options_of(2)); }) ==
        "model gpt2: 'lm_head.weight' is the same tensor as 'transformer.wte.weight', and no piece of the pipeline has both: train on one "
        "stage, or "
        "take a model whose weights are not tied");
}
