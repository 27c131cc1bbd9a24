#pragma once
// How a model is cut into pieces for the stages, and which values cross the borders between them.
//
// A part is the smallest unit that a partition moves (a block of a ResNet, say). A piece is some consecutive parts that one stage owns
// (Megatron: a model chunk, or virtual stage). A chunk is the index of a piece among those of its stage: piece n is chunk n / stages of
// stage n % stages.
#include <vector>

#include "models/graph.h"
#include "pipeline/plan/channels.h"

namespace pipecast {

// The values that enter and leave the nodes [first, last) of a graph; each list in ascending order.
struct Borders {
  std::vector<int> fed;      // inputs of the model that a node here reads; they come from the data set, not from another stage
  std::vector<int> inputs;   // received: nodes before `first` make them, nodes here read them
  std::vector<int> outputs;  // sent: nodes here make or read them, nodes from `last` on read them; and the model's output
};
Borders borders(const Graph&, int first, int last);

// The specs of all values of the graph in a pass of one shape, with the types in which the run stores them.
struct SpecTable {
  PassShape pass;
  std::vector<TensorSpec> specs;
};
// A table for each of these shapes, and for each length one of no samples: a mini-batch with fewer samples than micro-batches has such
// passes.
std::vector<SpecTable> spec_tables(const Graph&, const std::vector<PassShape>&, Storage activations);
// The largest memory of a value, in units of 4 bytes whatever its type, rounded up to aligned().
int64_t most_floats(const std::vector<SpecTable>&, int value);

struct Piece {
  int stage = 0, chunk = 0;
  int first_part = 0, parts = 0;      // the graph's parts [first_part, first_part + parts)
  int first_node = 0, last_node = 0;  // its nodes [first_node, last_node)
};

// What crosses a hop (plan/channels.h): the values in the messages forward, and the values whose gradients are in the messages back. A
// value goes from the piece that makes it to the next one that reads it, from there to the next, and so on; its gradient comes back the
// same way and grows by that of each reader.
struct Crossing {
  std::vector<int> values, gradients;
};

class Layout {
 public:
  // partition: parts for each piece, chunks * stages of them. Throws UsageError where a piece has none,
  // or they are not the parts of the graph.
  Layout(const Graph&, const std::vector<int>& partition, const std::vector<Program>&);

  const Channels& channels() const { return *channels_; }
  const std::vector<Piece>& pieces() const { return pieces_; }  // in the order of the model
  const Piece& piece(int stage, int chunk) const { return pieces_[size_t(chunk * channels_->stages() + stage)]; }
  // By hop; nothing crosses hop 0.
  const std::vector<Crossing>& crossings() const { return crossings_; }
  // Bytes of a message over a hop in a pass with these specs.
  int64_t message_bytes(int hop, bool gradients, const std::vector<TensorSpec>& specs) const;
  // Memory of a channel's largest message, in units of 4 bytes, each of its tensors rounded up to aligned().
  int64_t message_floats(int channel, const std::vector<SpecTable>&) const;
  // Memory of all messages that may be under way.
  int64_t channel_floats(int channel, const std::vector<SpecTable>&) const;

 private:
  std::vector<Piece> pieces_;
  std::vector<Crossing> crossings_;
  std::optional<Channels> channels_;
};

}  // namespace pipecast
