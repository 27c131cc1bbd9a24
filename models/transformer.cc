// The Transformer of SpecTrain's experiments, a classifier of texts: an embedding, a linear layer, learned positions, three blocks with a
// norm behind each half (4 heads, ReLU; dropout behind the attention and at the end of the feed-forward half), the mean over the positions,
// a linear layer. 1.62 M parameters with 10000 tokens and 2 classes; on four stages 1.32, .10, .10 and .10 M of them.
//
// The positions are a linear layer of a one-hot vector there: a row for each of 200 positions, and a bias. Texts end at their length here;
// there they are padded to 200 positions, which count in attention and mean.
#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {
namespace {

constexpr Initial normal{Initial::normal, 0.01f}, zero{};

std::unique_ptr<Layer> linear_of(const std::string& name, int64_t in, int64_t out) {
  return linear(name, {.in = in, .out = out, .initial = normal, .bias_initial = zero});
}

int add_block(Graph& graph, const TransformerOptions& o, const std::string& name, int x, int length) {
  const int64_t d = o.features;
  const auto projection = [&](const char* which) { return graph.add(linear_of(name + "." + which, d, d), {x}); };
  const auto end_half = [&](const std::string& half, int y, int before) {
    y = graph.add(dropout(name + "." + half + "_dropout", o.dropout), {y});
    return graph.add(layer_norm(name + "." + half + "_norm", {.channels = d, .add = true}), {y, before});
  };
  const int query = projection("query"), key = projection("key"), value = projection("value");
  int y = graph.add(attention(name + ".attention", {.features = d, .heads = o.heads}), {query, key, value, length});
  x = end_half("attention", graph.add(linear_of(name + ".output", d, d), {y}), x);
  y = graph.add(relu(name + ".relu"), {graph.add(linear_of(name + ".fc1", d, d), {x})});
  return end_half("forward", graph.add(linear_of(name + ".fc2", d, d), {y}), x);
}

}  // namespace

Graph transformer(const TransformerOptions& o) {
  const int64_t d = o.features;
  if (o.classes < 2) throw UsageError("transformer with classes = " + std::to_string(o.classes) + ": a classifier needs at least 2");
  Graph graph("transformer");
  const int tokens = graph.input({"tokens", {{1, 1, 1, 1}, Storage::int32}, true});
  const int length = graph.input({"length", {{1, 1, 1, 1}, Storage::int32}});
  graph.part("embedding");
  int x = graph.add(embedding("embedding", {.vocabulary = o.vocabulary, .features = d}), {tokens});
  x = graph.add(linear_of("words", d, d), {x});
  x = graph.add(positions("position", {.most = o.positions, .features = d, .initial = normal}), {x});
  x = graph.add(positions("position_bias", {.form = PositionForm::constant, .features = d, .initial = zero}), {x});
  for (int64_t i = 1; i <= o.blocks; ++i) {
    graph.part("block" + std::to_string(i));
    x = add_block(graph, o, "block" + std::to_string(i), x, length);
  }
  x = graph.add(masked_mean("mean"), {x, length});
  add_classifier_loss(graph, graph.add(linear_of("fc", d, o.classes), {x}), o.label_smoothing);
  return graph;
}

}  // namespace pipecast
