#include "models/graph.h"

#include <algorithm>

namespace pipecast {

void Graph::part(std::string name) {
  if (!parts_.empty() && parts_.back().first == parts_.back().last)
    throw Error("model '" + name_ + "': part '" + parts_.back().name + "' is empty; add a node to it before part '" + name + "' begins");
  const int begin = int(nodes_.size());
  parts_.push_back({std::move(name), begin, begin});
}

void Graph::cut_parts_by_layer() {
  const std::vector<Shape> values = shapes(1);
  std::vector<Part> cut;
  for (const Part& part : parts_) {
    bool has_work = false;  // the part that is being made
    for (int i = part.first; i < part.last; ++i) {
      const Node& node = nodes_[size_t(i)];
      std::vector<Shape> inputs;
      for (int input : node.inputs) inputs.push_back(values[size_t(input)]);
      const bool works = node.layer->flops(inputs) > 0;
      if (i == part.first || (works && has_work)) cut.push_back({node.layer->name(), i, i}), has_work = false;
      has_work = has_work || works;
      cut.back().last = i + 1;
    }
  }
  parts_ = std::move(cut);
}

int Graph::add(std::unique_ptr<Layer> layer, std::vector<int> inputs) {
  const std::string where = "model '" + name_ + "': layer '" + layer->name() + "' ";
  if (parts_.empty()) throw Error(where + "belongs to no part; call part() before the first add()");
  if (inputs.empty()) throw Error(where + "has no inputs; give it at least one value");
  const int values = int(nodes_.size()) + 1;
  for (int input : inputs)
    if (input < 0 || input >= values)
      throw Error(where + "reads value " + std::to_string(input) + ", which no earlier node makes; there are values 0 to " +
                  std::to_string(values - 1));
  // Parameters and random numbers are found by the layer's name.
  if (std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) { return node.layer->name() == layer->name(); }))
    throw Error(where + "has the name of an earlier layer; give each its own");

  nodes_.push_back({std::move(layer), std::move(inputs)});
  parts_.back().last = values;
  return values;
}

std::vector<Shape> Graph::shapes(int64_t batch) const {
  std::vector<Shape> shapes = {input_.batch(batch)}, inputs;
  for (const Node& node : nodes_) {
    inputs.clear();
    for (int input : node.inputs) inputs.push_back(shapes[size_t(input)]);
    shapes.push_back(node.layer->output(inputs));
  }
  return shapes;
}

Segments Graph::collect(int first, int last, std::vector<ParameterSpec> (Layer::*of)() const) const {
  Segments segments;
  for (int i = first; i < last; ++i) {
    const Layer& layer = *nodes_[size_t(i)].layer;
    for (ParameterSpec& spec : (layer.*of)()) {
      if (!layer.name().empty()) spec.name = layer.name() + "." + spec.name;
      segments.add(std::move(spec));
    }
  }
  return segments;
}

}  // namespace pipecast
