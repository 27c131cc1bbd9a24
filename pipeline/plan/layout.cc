#include "pipeline/plan/layout.h"

namespace pipecast {

Borders borders(const Graph& graph, int first, int last) {
  const std::vector<Graph::Value>& values = graph.values();
  std::vector<bool> read_here(values.size()), read_later(values.size());
  for (int i = first; i < int(graph.nodes().size()); ++i)
    for (int v : graph.nodes()[size_t(i)].inputs) (i < last ? read_here : read_later)[size_t(v)] = true;
  read_later.back() = true;

  Borders borders;
  for (size_t v = 0; v < values.size(); ++v) {
    const int maker = values[v].node;
    if (maker < 0) {
      if (read_here[v]) borders.fed.push_back(int(v));
      continue;
    }
    if (maker < first && (read_here[v] || read_later[v])) borders.inputs.push_back(int(v));
    if (maker < last && read_later[v]) borders.outputs.push_back(int(v));
  }
  return borders;
}

}  // namespace pipecast
