#pragma once
// Walks through the programs of all stages at once, as the stages would run them: each carries out its instructions in order; a receive
// waits for its messages, a send for a free place in each of its channels. A visitor is told of every step.
#include <deque>
#include <vector>

#include "pipeline/plan/channels.h"

namespace pipecast {

class Visitor {
 public:
  virtual ~Visitor() = default;
  // The stage has come to its instruction number `position`, and may have to wait there.
  virtual void reach(int /*stage*/, size_t /*position*/) {}
  // Called before carry_out() where the instruction sends or receives. number: the message's, counted from 0 in its channel. expected: the
  // message that the receiver waits for; arrived: the pass that the message which came is for, as its sender says.
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

// The result does not depend on the order in which stages take turns: a stage waits for nothing but the messages and free places of its own
// channels. The time is linear in the number of instructions.
WalkEnd walk(const std::vector<Program>&, const Channels&, Visitor&);

}  // namespace pipecast
