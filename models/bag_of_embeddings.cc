// A classifier of text that knows no order of words: the mean of what each word becomes, then two linear layers. In spirit the deep
// averaging network of Iyyer et al. 2015. In four parts; what crosses the first two borders is a sequence.
#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {

Graph bag_of_embeddings(const ModelOptions& options) {
  constexpr int64_t width = 64;
  Graph graph("bag-of-embeddings");
  const int tokens = graph.input({"tokens", {{1, 1, 1, 1}, Storage::int32}, true});
  const int length = graph.input({"length", {{1, 1, 1, 1}, Storage::int32}});
  graph.part("embedding");
  int x = graph.add(embedding("embedding", {.vocabulary = options.vocabulary, .features = width}), {tokens});
  graph.part("words");
  x = graph.add(relu("words_relu"), {graph.add(linear("words", width, width), {x})});
  graph.part("mean");
  x = graph.add(masked_mean("mean"), {x, length});
  x = graph.add(relu("hidden_relu"), {graph.add(linear("hidden", width, width), {x})});
  graph.part("head");
  add_classifier_loss(graph, graph.add(linear("fc", width, options.classes), {x}), options.label_smoothing);
  return graph;
}

}  // namespace pipecast
