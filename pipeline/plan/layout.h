#pragma once
// How a model lies on a pipeline: its pieces, the channels between their stages, and what crosses the borders. The one place where that is
// worked out.
#include <vector>

#include "models/graph.h"
#include "pipeline/plan/channels.h"

namespace pipecast {

// Of the nodes [first, last) of a graph, in ascending order of the values.
struct Borders {
  std::vector<int> fed;      // inputs of the model that a node here reads: they come from the data set, wherever the piece lies
  std::vector<int> inputs;   // values that are made before and read here or after
  std::vector<int> outputs;  // values that are made before the end and read after it, and the model's output
};
Borders borders(const Graph&, int first, int last);

// The specs of all values of the graph in a pass, as they are stored.
struct SpecTable {
  PassShape pass;
  std::vector<TensorSpec> specs;
};
// For passes of these shapes, and for one without samples of each length: that of a mini-batch with fewer samples than micro-batches.
std::vector<SpecTable> spec_tables(const Graph&, const std::vector<PassShape>&, Storage activations);
// Floats that a value takes at most, rounded up to aligned().
int64_t most_floats(const std::vector<SpecTable>&, int value);

struct Piece {
  int stage = 0, chunk = 0;            // chunk c of stage k is piece c * stages + k
  int first_part = 0, parts = 0;       // of the graph
  int first_node = 0, last_node = 0;   // [first, last)
};

// The values of the graph in the messages over a border, forward, and those whose gradients are in the messages back.
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
  // Floats of the largest message of a channel, each of its tensors rounded up to aligned(), and those of all its places.
  int64_t message_floats(int channel, const std::vector<SpecTable>&) const;
  int64_t channel_floats(int channel, const std::vector<SpecTable>&) const;

 private:
  Channels channels_;
  std::vector<Piece> pieces_;
  std::vector<Crossing> crossings_;
};

}  // namespace pipecast
