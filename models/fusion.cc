#include "models/fusion.h"

#include "layers/layer.h"

namespace pipecast {

std::vector<int> makers_of_unwritten_inputs(const Graph& graph, int first, int last, const std::vector<int>& outputs) {
  const std::vector<Node>& nodes = graph.nodes();
  std::vector<int> readers(graph.values().size(), 0), makers;
  for (int v : outputs) readers[size_t(v)] = 2;
  for (int i = first; i < last; ++i)
    for (int v : nodes[size_t(i)].inputs) ++readers[size_t(v)];
  for (int i = first; i < last; ++i) {
    const Node& node = nodes[size_t(i)];
    const int value = node.inputs[0], maker = graph.values()[size_t(value)].node;
    const bool fuses = maker >= first && readers[size_t(value)] == 1 && nodes[size_t(maker)].layer->normalises() &&
                       node.layer->takes_normalised();
    makers.push_back(fuses ? maker : -1);
  }
  return makers;
}

}  // namespace pipecast
