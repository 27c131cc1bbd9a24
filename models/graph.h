#pragma once
// models/: one file per network family, built from layers.
//
// A model is a list of nodes in the order they run. A node applies a layer to earlier values; value 0 is the model's input
// and node i makes value i + 1. A value may be read by several nodes, and from any distance: where a pipeline cuts the list,
// every value that is made before the cut and read after it crosses the boundary.
#include <memory>
#include <string>
#include <vector>

#include "layers/layer.h"

namespace pipecast {

struct Node {
  std::unique_ptr<Layer> layer;
  std::vector<int> inputs;  // values
};

// A stretch of nodes that the partitioner does not cut: [first, last).
struct Part {
  std::string name;
  int first = 0, last = 0;
};

class Graph {
 public:
  explicit Graph(std::string name, Shape input) : name_(std::move(name)), input_(input.batch(1)) {}

  int input() const { return 0; }
  // Nodes added from here on belong to a new part. It comes before the first add().
  void part(std::string name);
  // Lets a pipeline cut between layers as well: every part is cut before each layer that has arithmetic to do but its first. A
  // part is then called by its first layer.
  void cut_parts_by_layer();
  // Appends a node and returns the value it makes. The last node's value is the model's output. No two layers share a name.
  int add(std::unique_ptr<Layer> layer, std::vector<int> inputs);

  const std::string& name() const { return name_; }
  Shape input_shape() const { return input_; }  // n = 1
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Part>& parts() const { return parts_; }
  // Shapes of all values for a batch size; shapes(b)[0] is the input's.
  std::vector<Shape> shapes(int64_t batch) const;

  // All trained tensors, and all statistics, by full name ("bn1.weight"), in the order of the nodes.
  Segments parameters() const { return collect(0, int(nodes_.size()), &Layer::parameters); }
  Segments statistics() const { return collect(0, int(nodes_.size()), &Layer::statistics); }
  // The same for the nodes [first, last).
  Segments collect(int first, int last, std::vector<ParameterSpec> (Layer::*of)() const) const;

 private:
  std::string name_;
  Shape input_;
  std::vector<Node> nodes_;
  std::vector<Part> parts_;
};

}  // namespace pipecast
