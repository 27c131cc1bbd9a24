// GPT-2 (Radford et al. 2019): a decoder that says the next token. Blocks with a norm before each half; GELU in its tanh form; learned
// positions. Parameters have the names and shapes of transformers' GPT2LMHeadModel, whose linear layers are stored in x out.
//
// Inputs: tokens (n, length, 1, 1), length (n, 1, 1, 1), and target (n, length, 1, 1): the token that follows each position, -100 where
// none counts. In two parts beside the blocks: embedding, head.
//
// In the published model the matrix that makes the logits is the embedding of the tokens ("tied"). Then both layers read one tensor, and
// its gradient is the sum of both; they must be in one piece of the pipeline. Untied, each has a matrix of its own: a pipeline may be cut
// anywhere. Published weights fit both; untied, both matrices begin as the one.
#include <cmath>

#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {
namespace {

constexpr Initial normal{Initial::normal, 0.02f}, zero{};

// y = x + what its two halves add.
int add_block(Graph& graph, const Gpt2Options& o, const std::string& name, int x, int length) {
  const int64_t d = o.features;
  const auto linear_of = [&](const std::string& layer, int64_t in, int64_t out, Initial initial) {
    return linear(name + layer, {.in = in, .out = out, .initial = initial, .bias_initial = zero, .transposed = true});
  };
  // What adds to the residual path begins smaller, by the square root of how many do.
  const Initial to_path{Initial::normal, 0.02f / std::sqrt(2 * float(o.layers))};

  int y = graph.add(layer_norm(name + ".ln_1", {.channels = d}), {x});
  y = graph.add(linear_of(".attn.c_attn", d, 3 * d, normal), {y});
  y = graph.add(attention(name + ".attn", {.features = d, .heads = o.heads, .causal = true, .dropout = o.dropout}), {y, length});
  y = graph.add(linear_of(".attn.c_proj", d, d, to_path), {y});
  x = graph.add(add(name + ".attn.sum"), {x, graph.add(dropout(name + ".attn.resid_dropout", o.dropout), {y})});

  y = graph.add(layer_norm(name + ".ln_2", {.channels = d}), {x});
  y = graph.add(linear_of(".mlp.c_fc", d, 4 * d, normal), {y});
  y = graph.add(gelu(name + ".mlp.act", GeluForm::tanh), {y});
  y = graph.add(linear_of(".mlp.c_proj", 4 * d, d, to_path), {y});
  return graph.add(add(name + ".mlp.sum"), {x, graph.add(dropout(name + ".mlp.dropout", o.dropout), {y})});
}

void describe_files(Graph& graph, const Gpt2Options& o) {
  Graph::Files& files = graph.files();
  files.body = "transformer.";
  if (o.tied) graph.leave_out("lm_head.weight");
  else files.missing = "lm_head.weight", files.stands_in = "transformer.wte.weight";
  for (int64_t i = 0; i < o.layers; ++i)  // masks of attention, which older files have
    for (const char* mask : {".attn.bias", ".attn.masked_bias"}) graph.leave_out("transformer.h." + std::to_string(i) + mask);
}

}  // namespace

Graph gpt2(const Gpt2Options& o) {
  const int64_t d = o.features;
  Graph graph(o.name);
  describe_files(graph, o);
  const int tokens = graph.input({"tokens", {{1, 1, 1, 1}, Storage::int32}, true});
  const int length = graph.input({"length", {{1, 1, 1, 1}, Storage::int32}});
  graph.part("embedding");
  int x = graph.add(embedding("transformer.wte", {.vocabulary = o.vocabulary, .features = d, .padding = -1, .initial = normal}), {tokens});
  x = graph.add(positions("transformer.wpe", {.most = o.positions, .features = d, .initial = normal}), {x});
  x = graph.add(dropout("transformer.drop", o.dropout), {x});
  for (int64_t i = 0; i < o.layers; ++i) {
    graph.part("block" + std::to_string(i));
    x = add_block(graph, o, "transformer.h." + std::to_string(i), x, length);
  }
  graph.part("head");
  x = graph.add(layer_norm("transformer.ln_f", {.channels = d}), {x});
  const std::string tied = o.tied ? "transformer.wte.weight" : "";
  x = graph.add(linear("lm_head", {.in = d, .out = o.vocabulary, .bias = false, .initial = normal, .tied = tied}), {x});
  const int target = graph.input({"target", {{1, 1, 1, 1}, Storage::int32}, true});
  graph.add(softmax_cross_entropy("loss", {.label_smoothing = o.label_smoothing}), {x, target});
  return graph;
}

}  // namespace pipecast
