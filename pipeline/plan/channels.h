#pragma once
// The channels between the stages, worked out from the programs: which stages send to each other, which chunk of the receiver a message is
// for, and how many messages may be under way.
#include <optional>
#include <vector>

#include "pipeline/program.h"

namespace pipecast {

// A pass on a piece of the model. Piece n is chunk n / stages of stage n % stages, so with several chunks a pass goes round the stages, and
// the last stage sends to the first.
struct PassAt {
  int stage = 0;
  Tag pass;
};

// One way between two stages: activations to the one that has the next piece, gradients to the one that has the piece before.
struct Channel {
  int from = 0, to = 0;
  bool gradients = false;
  int capacity = 2;  // messages that were sent and not yet received, at most
};

// A message that an instruction sends or receives.
struct Message {
  int channel = 0;  // in Channels::all()
  bool sends = false;
  Tag pass;        // the pass that it is for, with the receiver's chunk
  int border = 0;  // the border that it crosses: border n lies before piece n of the model
};

class Channels {
 public:
  // A channel's capacity is the largest number of messages under way at once where every pass takes the same time and no sender waits, and
  // at least two, so that a stage can compute while its last message is under way. Programs that deadlock are allowed here; the audit
  // refuses them.
  explicit Channels(const std::vector<Program>&);

  int stages() const { return stages_; }
  int chunks() const { return chunks_; }
  const std::vector<Channel>& all() const { return all_; }
  // The same pass on the next piece of the model, and on the piece before. Nothing at the ends of the model.
  int piece(const PassAt& at) const { return at.pass.chunk * stages_ + at.stage; }
  std::optional<PassAt> after(const PassAt&) const;
  std::optional<PassAt> before(const PassAt&) const;
  // The channels of a stage; -1: it has none.
  int activations_from(int stage) const { return activations_[size_t(stage)]; }  // to the next stage
  int gradients_to(int stage) const { return gradients_[size_t(stage)]; }        // from the next stage
  int activations_to(int stage) const { return activations_from((stage + stages_ - 1) % stages_); }
  int gradients_from(int stage) const { return gradients_to((stage + stages_ - 1) % stages_); }
  // The message that an instruction of a stage sends or receives; nothing for other operations, and at the ends of the model.
  std::optional<Message> message(int stage, const Instruction&) const;

 private:
  int stages_, chunks_;
  std::vector<Channel> all_;
  std::vector<int> activations_, gradients_;  // by stage, see above
};

}  // namespace pipecast
