// The residual LSTM classifier of SpecTrain's experiments on IMDB (Chen et al., "Efficient and robust parallel DNN training through model
// parallelism on multi-GPU platform"): an embedding, four blocks of an LSTM and a linear layer with a shortcut around both, the mean over
// time, a linear layer. A published stage is one block, the first one with the embedding.
//
// Here the LSTMs and the mean end at each text's own length; the published code reads the padding, too.
#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {

Graph residual_lstm(const ResidualLstmOptions& options) {
  const int64_t width = options.width;
  const LinearOptions linear_options{.in = width, .out = width, .initial = Initial{Initial::normal, 0.01f}, .bias_initial = Initial{}};
  Graph graph("residual-lstm");
  const int tokens = graph.input({"tokens", {{1, 1, 1, 1}, Storage::int32}, true});
  const int length = graph.input({"length", {{1, 1, 1, 1}, Storage::int32}});
  graph.part("embedding");
  int x = graph.add(embedding("embedding", {.vocabulary = options.vocabulary, .features = width}), {tokens});
  for (int k = 0; k < options.blocks; ++k) {
    const std::string block = "blocks." + std::to_string(k);
    graph.part(block);
    const int states = graph.add(lstm(block + ".lstm", {.in = width, .hidden = width}), {x, length});
    x = graph.add(add(block + ".shortcut"), {graph.add(linear(block + ".linear", linear_options), {states}), x});
  }
  graph.part("head");
  x = graph.add(masked_mean("mean"), {x, length});
  const LinearOptions head{.in = width, .out = options.classes, .initial = Initial{Initial::normal, 0.01f}, .bias_initial = Initial{}};
  add_classifier_loss(graph, graph.add(linear("fc", head), {x}), options.label_smoothing);
  return graph;
}

}  // namespace pipecast
