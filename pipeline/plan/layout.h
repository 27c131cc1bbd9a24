#pragma once
// How a model is cut into pieces for the stages, which channels connect them, and which values cross the borders. No other file works that
// out.
#include <vector>

#include "models/graph.h"
#include "pipeline/plan/channels.h"

namespace pipecast {

// The values that a piece, the nodes [first, last) of a graph, shares with the rest of the model; each list in ascending order.
struct Borders {
  std::vector<int> fed;      // inputs of the model that a node of the piece reads; they come from the data set, not from another stage
  std::vector<int> inputs;   // values that nodes before `first` make and nodes from `first` on read
  std::vector<int> outputs;  // values that nodes before `last` make and nodes from `last` on read, and the model's output
};
Borders borders(const Graph&, int first, int last);

// The specs of all values of the graph in a pass of one shape.
struct SpecTable {
  PassShape pass;
  std::vector<TensorSpec> specs;
};
// A table for each of these shapes, and for each length one of no samples: a mini-batch with fewer samples than micro-batches has such
// passes.
std::vector<SpecTable> spec_tables(const Graph&, const std::vector<PassShape>&, Storage activations);
// Floats that a value takes at most, rounded up to aligned().
int64_t most_floats(const std::vector<SpecTable>&, int value);

struct Piece {
  int stage = 0, chunk = 0;            // chunk c of stage k is piece c * stages + k
  int first_part = 0, parts = 0;       // of the graph
  int first_node = 0, last_node = 0;   // [first, last)
};

// What crosses a border: the values in the messages forward, and the values whose gradients are in the messages back.
struct Crossing {
  std::vector<int> values, gradients;
};

class Layout {
 public:
  // partition: parts for each piece, chunks * stages of them. Throws UsageError where a piece has none,
  // or they are not the parts of the graph.
  Layout(const Graph&, const std::vector<int>& partition, const std::vector<Program>&);

  const Channels& channels() const { return channels_; }
  const std::vector<Piece>& pieces() const { return pieces_; }  // in the order of the model
  const Piece& piece(int stage, int chunk) const { return pieces_[size_t(chunk * channels_.stages() + stage)]; }
  // Border n lies before piece n; nothing crosses border 0.
  const Crossing& crossing(int border) const { return crossings_[size_t(border)]; }
  // Bytes of a message over a border in a pass with these specs.
  int64_t message_bytes(int border, bool gradients, const std::vector<TensorSpec>& specs) const;
  // Floats of a channel's largest message, each of its tensors rounded up to aligned(); and floats of all messages that may be under way.
  int64_t message_floats(int channel, const std::vector<SpecTable>&) const;
  int64_t channel_floats(int channel, const std::vector<SpecTable>&) const;

 private:
  Channels channels_;
  std::vector<Piece> pieces_;
  std::vector<Crossing> crossings_;
};

}  // namespace pipecast
