#pragma once
// Steps through the programs of all stages together, as the stages would: each carries out its instructions in order, waits for the message that
// it receives, and for a free place in the channel that it sends to. What an instruction does is the visitor's business.
#include <deque>
#include <vector>

#include "pipeline/plan/channels.h"

namespace pipecast {

class Visitor {
 public:
  virtual ~Visitor() = default;
  // The stage comes to its instruction number `position`. It may have to wait there.
  virtual void reach(int /*stage*/, size_t /*position*/) {}
  // Message number `number` of a channel, counted from 0, is sent, or received; then the instruction is carried out. expected: what the
  // receiver waits for, arrived: what comes, as its sender says.
  virtual void send(int /*stage*/, size_t /*position*/, const Message&, int64_t /*number*/) {}
  virtual void receive(int /*stage*/, size_t /*position*/, const Message& /*expected*/, const Tag& /*arrived*/, int64_t /*number*/) {}
  virtual void carry_out(int stage, size_t position) = 0;
};

// How a walk ends. Programs that fit together leave both lists empty.
struct WalkEnd {
  struct Waiting {
    int stage;
    size_t position;
    Message message;
  };
  struct Unreceived {
    int channel;
    size_t position;  // of the instruction that sent it
  };
  std::vector<Waiting> waiting;        // stages that wait for ever, in ascending order
  std::vector<Unreceived> unreceived;  // messages; the first of each channel
};

// The order in which the stages are looked at makes no difference: each waits for messages and places of its own, and for nothing else. The
// time is linear in the number of instructions.
WalkEnd walk(const std::vector<Program>&, const Channels&, Visitor&);

}  // namespace pipecast
