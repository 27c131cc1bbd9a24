// RoBERTa (Liu et al. 2019), an encoder as BERT's (Devlin et al. 2018), with a classifier of whole sequences. Blocks with a norm behind
// each half; learned positions, the first of which has row 2. Parameters have the names of transformers' RobertaForSequenceClassification.
// Files of the model without its classifier, or with a head for another task, fit as a beginning of training.
//
// Inputs: tokens (n, length, 1, 1) that begin with the token <s>, from whose position the classifier reads, length (n, 1, 1, 1), and label.
#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {
namespace {

constexpr Initial normal{Initial::normal, 0.02f}, zero{};
constexpr int64_t first_position_row = 2;  // behind that of the padding token, which is 1

std::unique_ptr<Layer> linear_of(const std::string& name, int64_t in, int64_t out) {
  return linear(name, {.in = in, .out = out, .initial = normal, .bias_initial = zero});
}

// The end of a block's half: a linear layer, dropout, and the norm of the sum with what the half began with.
int add_output(Graph& graph, const RobertaOptions& o, const std::string& name, int64_t in, int y, int x) {
  y = graph.add(linear_of(name + ".dense", in, o.features), {y});
  y = graph.add(dropout(name + ".dropout", o.dropout), {y});
  return graph.add(layer_norm(name + ".LayerNorm", {.channels = o.features, .add = true}), {y, x});
}

int add_block(Graph& graph, const RobertaOptions& o, const std::string& name, int x, int length) {
  const int64_t d = o.features;
  const auto projection = [&](const char* which) { return graph.add(linear_of(name + ".attention.self." + which, d, d), {x}); };
  const int query = projection("query"), key = projection("key"), value = projection("value");
  int y =
      graph.add(attention(name + ".attention.self", {.features = d, .heads = o.heads, .dropout = o.dropout}), {query, key, value, length});
  x = add_output(graph, o, name + ".attention.output", d, y, x);
  y = graph.add(linear_of(name + ".intermediate.dense", d, 4 * d), {x});
  return add_output(graph, o, name + ".output", 4 * d, graph.add(gelu(name + ".intermediate.act"), {y}), x);
}

}  // namespace

Graph roberta(const RobertaOptions& o) {
  const int64_t d = o.features;
  if (o.classes < 2) throw UsageError(o.name + " with classes = " + std::to_string(o.classes) + ": a classifier needs at least 2");
  Graph graph(o.name);
  graph.files().body = "roberta.", graph.files().head = "classifier.";
  for (const char* other : {"lm_head.", "roberta.pooler."}) graph.leave_out(other);
  const int tokens = graph.input({"tokens", {{1, 1, 1, 1}, Storage::int32}, true});
  const int length = graph.input({"length", {{1, 1, 1, 1}, Storage::int32}});
  const std::string name = "roberta.embeddings.";
  graph.part("embedding");
  int x = graph.add(embedding(name + "word_embeddings", {.vocabulary = o.vocabulary, .features = d, .padding = -1, .initial = normal}),
                    {tokens});
  x = graph.add(positions(name + "token_type_embeddings", {.form = PositionForm::constant, .features = d, .initial = normal}), {x});
  x = graph.add(positions(name + "position_embeddings",
                          {.most = o.positions + first_position_row, .features = d, .first = first_position_row, .initial = normal}),
                {x});
  x = graph.add(layer_norm(name + "LayerNorm", {.channels = d}), {x});
  x = graph.add(dropout(name + "dropout", o.dropout), {x});
  for (int64_t i = 0; i < o.layers; ++i) {
    graph.part("block" + std::to_string(i));
    x = add_block(graph, o, "roberta.encoder.layer." + std::to_string(i), x, length);
  }
  graph.part("classifier");
  x = graph.add(first_position("first_position"), {x});
  x = graph.add(dropout("classifier.dropout_in", o.dropout), {x});
  x = graph.add(tanh("classifier.tanh"), {graph.add(linear_of("classifier.dense", d, d), {x})});
  x = graph.add(dropout("classifier.dropout", o.dropout), {x});
  add_classifier_loss(graph, graph.add(linear_of("classifier.out_proj", d, o.classes), {x}), o.label_smoothing);
  return graph;
}

}  // namespace pipecast
