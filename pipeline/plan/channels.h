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

// A value that a piece makes or reads, and that pieces further on do not read but a later one does, goes from the one piece to the other
// directly, and its gradient directly back.
struct Skip {
  int from = 0, to = 0;  // pieces; to > from + 1
  auto operator<=>(const Skip&) const = default;
};

// One way between two stages: activations to a later piece, gradients to an earlier one. The borders between pieces share two channels for
// each pair of neighbouring stages; each skip has two of its own.
struct Channel {
  int from = 0, to = 0;
  bool gradients = false;
  int capacity = 2;  // messages that were sent and not yet received, at most
};

// A message that an instruction sends or receives.
struct Message {
  int channel = 0;  // in Channels::all()
  bool sends = false;
  Tag pass;     // the pass that it is for, with the receiver's chunk
  int hop = 0;  // what it crosses: hop n < pieces() is the border before piece n of the model, hop pieces() + n the skip n
};

class Channels {
 public:
  // A channel's capacity is the largest number of messages under way at once where every pass takes the same time and no sender waits, and
  // at least two, so that a stage can compute while its last message is under way. Programs that deadlock are allowed here; the audit
  // refuses them.
  explicit Channels(const std::vector<Program>&, std::vector<Skip> skips = {});

  int stages() const { return stages_; }
  int chunks() const { return chunks_; }
  int pieces() const { return stages_ * chunks_; }
  const std::vector<Skip>& skips() const { return skips_; }
  const std::vector<Channel>& all() const { return all_; }
  // The same pass on the next piece of the model, and on the piece before. Nothing at the ends of the model.
  int piece(const PassAt& at) const { return at.pass.chunk * stages_ + at.stage; }
  std::optional<PassAt> after(const PassAt&) const;
  std::optional<PassAt> before(const PassAt&) const;
  int channel(int hop, bool gradients) const;  // of a hop
  // How many messages an instruction of a stage sends or receives, and the n-th of them: over the border first, then over skips. None for
  // other operations, and at the ends of the model.
  int messages(int stage, const Instruction&) const;
  Message message(int stage, const Instruction&, int n) const;

 private:
  struct End {
    int hop, piece;  // the piece at the other end
  };
  const std::vector<End>& ends(int stage, const Instruction&) const;

  int stages_, chunks_;
  std::vector<Skip> skips_;
  std::vector<Channel> all_;  // for each stage but the last (for each, where there are several chunks) two, then two for each skip
  std::vector<std::vector<End>> behind_, ahead_;  // by piece: to earlier pieces and to later ones
};

}  // namespace pipecast
