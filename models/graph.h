#pragma once
// models/: one file per network family, built from layers.
//
// A model is a list of nodes in the order in which they run. A node applies a layer to earlier values and makes a new value. The values
// that no node makes are the model's inputs; they have names, by which they find the columns of a data set. Any number of later nodes may
// read a value. The last node of a model that is trained is its loss.
#include <memory>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace pipecast {

class Layer;
struct ParameterSpec;
struct Segments;

struct Node {
  std::unique_ptr<Layer> layer;
  std::vector<int> inputs;  // values
  int value = 0;            // the value that it makes
};

// Nodes [first, last) that stay on one stage.
struct Part {
  std::string name;
  int first = 0, last = 0;
};

class Graph {
 public:
  explicit Graph(std::string name);
  // With an input "image" of this shape (n = 1), value 0.
  Graph(std::string name, Shape image);
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;

  // Declares an input and returns its value. Declared again with the same spec, it is the same value.
  int input(InputSpec spec);
  // Begins a new part, to which the nodes added from here on belong. Call it before the first add().
  void part(std::string name);
  // Lets a pipeline cut between layers as well: every part is split before each layer with arithmetic but its first one. A part is then
  // named after its first layer.
  void cut_parts_by_layer();
  // Appends a node and returns the value that it makes. The last node's value is the model's output. No two layers share a name.
  int add(std::unique_ptr<Layer> layer, std::vector<int> inputs);

  // What files of weights for this model may look like, besides its own.
  struct Files {
    std::vector<std::string>
        left_out;                    // they may hold tensors whose names begin so: weights of what the model leaves out, which are not read
    std::string body;                // files of the model without its head have names without this beginning: "transformer."
    std::string head;                // and no tensors whose names begin so; training may begin with such a file, and with a new head
    std::string missing, stands_in;  // one without the tensor `missing` has its values in `stands_in`: published as one, here two
  };
  void leave_out(std::string beginning) { files_.left_out.push_back(std::move(beginning)); }
  Files& files() { return files_; }
  const Files& files() const { return files_; }

  struct Value {
    int node = -1;  // the node that makes it; -1: it is an input
    int input = -1;
  };

  const std::string& name() const { return name_; }
  const std::vector<InputSpec>& inputs() const { return inputs_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Part>& parts() const { return parts_; }
  const std::vector<Value>& values() const { return values_; }
  bool is_input(int value) const { return values_[size_t(value)].node < 0; }
  const InputSpec& input_of(int value) const { return inputs_[size_t(values_[size_t(value)].input)]; }
  // Whether a node makes the value and a gradient flows to it.
  bool has_gradient(int value, const std::vector<TensorSpec>& specs) const {
    return !is_input(value) && specs[size_t(value)].differentiable;
  }
  // The specs of all values in a pass of this shape. Activations are fp32 here; see stored().
  std::vector<TensorSpec> specs(const PassShape&) const;

  // The loss, if the last layer is one; else null. Its first input is the model's prediction.
  const Layer* loss() const;
  int prediction() const;

  // All trained tensors, and all statistics, by full name ("bn1.weight"), in the order of the nodes.
  Segments parameters() const;
  Segments statistics() const;
  // The same for the nodes [first, last). A parameter that is tied to one of theirs is left out: it is that one. One that is tied to
  // another node's is their own.
  Segments collect(int first, int last, std::vector<ParameterSpec> (Layer::*of)() const) const;
  // Throws UsageError where the nodes [first, last), a piece of a pipeline, have a parameter that is tied to one of another piece.
  void check_ties(int first, int last) const;

 private:
  std::string name_;
  std::vector<InputSpec> inputs_;
  std::vector<Node> nodes_;
  std::vector<Part> parts_;
  std::vector<Value> values_;
  Files files_;
};

}  // namespace pipecast
