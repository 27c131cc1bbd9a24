#include "models/graph.h"

#include <algorithm>

#include "engine/error.h"
#include "layers/layer.h"

namespace pipecast {

Graph::Graph(std::string name) : name_(std::move(name)) {}
Graph::Graph(std::string name, Shape image) : Graph(std::move(name)) { input({"image", image.batch(1)}); }
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

int Graph::input(InputSpec spec) {
  for (size_t v = 0; v < values_.size(); ++v) {
    if (!is_input(int(v)) || input_of(int(v)).name != spec.name) continue;
    const InputSpec& known = input_of(int(v));
    if (known.sample != spec.sample || known.sequence != spec.sequence)
      throw Error("model '" + name_ + "': input '" + spec.name + "' is declared twice, as " + to_string(known.sample.shape) + " and as " +
                  to_string(spec.sample.shape) + "; declare it once");
    return int(v);
  }
  inputs_.push_back(std::move(spec));
  values_.push_back({.input = int(inputs_.size()) - 1});
  return int(values_.size()) - 1;
}

void Graph::part(std::string name) {
  if (!parts_.empty() && parts_.back().first == parts_.back().last)
    throw Error("model '" + name_ + "': part '" + parts_.back().name + "' is empty; add a node to it before part '" + name + "' begins");
  const int begin = int(nodes_.size());
  parts_.push_back({std::move(name), begin, begin});
}

void Graph::cut_parts_by_layer() {
  const std::vector<TensorSpec> values = specs({});
  std::vector<Part> cut;
  for (const Part& part : parts_) {
    bool has_work = false;  // the part that is being made
    for (int i = part.first; i < part.last; ++i) {
      const Node& node = nodes_[size_t(i)];
      std::vector<TensorSpec> inputs;
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
  const int values = int(values_.size());
  for (int input : inputs)
    if (input < 0 || input >= values)
      throw Error(where + "reads value " + std::to_string(input) + ", which no earlier node makes; there are values 0 to " +
                  std::to_string(values - 1));
  // Parameters and random numbers are found by the layer's name.
  if (std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) { return node.layer->name() == layer->name(); }))
    throw Error(where + "has the name of an earlier layer; give each its own");

  nodes_.push_back({std::move(layer), std::move(inputs), values});
  values_.push_back({.node = int(nodes_.size()) - 1});
  parts_.back().last = int(nodes_.size());
  return values;
}

std::vector<TensorSpec> Graph::specs(const PassShape& pass) const {
  std::vector<TensorSpec> specs, inputs;
  for (const Value& value : values_) {
    if (value.node < 0) {
      specs.push_back(inputs_[size_t(value.input)].of(pass));
      continue;
    }
    const Node& node = nodes_[size_t(value.node)];
    inputs.clear();
    for (int input : node.inputs) inputs.push_back(specs[size_t(input)]);
    specs.push_back(node.layer->output(inputs));
  }
  return specs;
}

const Layer* Graph::loss() const {
  const Layer* last = nodes_.empty() ? nullptr : nodes_.back().layer.get();
  return last && !last->means().empty() ? last : nullptr;
}

int Graph::prediction() const { return loss() ? nodes_.back().inputs[0] : int(values_.size()) - 1; }

Segments Graph::parameters() const { return collect(0, int(nodes_.size()), &Layer::parameters); }
Segments Graph::statistics() const { return collect(0, int(nodes_.size()), &Layer::statistics); }

Segments Graph::collect(int first, int last, std::vector<ParameterSpec> (Layer::*of)() const) const {
  Segments segments;
  for (int i = first; i < last; ++i) {
    const Layer& layer = *nodes_[size_t(i)].layer;
    for (ParameterSpec& spec : (layer.*of)()) {
      if (!layer.name().empty()) spec.name = layer.name() + "." + spec.name;
      if (spec.tied.empty() || segments.find(spec.tied) < 0) segments.add(std::move(spec));
    }
  }
  return segments;
}

void Graph::check_ties(int first, int last) const {
  for (const ParameterSpec& spec : collect(first, last, &Layer::parameters).specs)
    if (!spec.tied.empty())
      throw UsageError("model " + name_ + ": '" + spec.name + "' is the same tensor as '" + spec.tied +
                       "', and no piece of the pipeline has both: train on one stage, or take a model whose weights are not tied");
}

}  // namespace pipecast
