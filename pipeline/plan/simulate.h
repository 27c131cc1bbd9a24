#pragma once
// How long the programs of a pipeline take and what memory they hold, where every instruction has a cost and every link a speed: the
// programs of all stages walked together as the machine would run them, each stage on a device of its own, without running anything.
#include <vector>

#include "pipeline/plan/channels.h"

namespace pipecast {

constexpr int64_t most_cost_bytes = 1000000000000;  // of one thing: what all copies and frames take fits, too

// A piece of the model on its stage. Seconds are those of a pass, bytes those of a pass or of one place for it.
struct ChunkCosts {
  double forward = 0, backward = 0;        // a recompute takes as long as a forward
  double input_half = 0, weight_half = 0;  // of a backward that comes in halves
  int64_t activation_bytes = 0;            // message over the border before it; for the model's first piece the inputs of the pass
  int64_t gradient_bytes = 0;              // message back over that border; 0 for the first piece
  int64_t frame_bytes = 0;                 // what its backward reads again
  int64_t input_bytes = 0;                 // its input alone, kept for a recompute
};

struct StageCosts {
  std::vector<ChunkCosts> chunks;
  double step = 0, step_and_predict = 0;  // seconds
  double predict = 0, stash = 0;          // a look_back takes as long as a predict
  int64_t weight_bytes = 0;               // of one copy
  int64_t state_bytes = 0;                // of the optimizer
  int64_t arena_bytes = 0;
};

// The sender copies a message into one of the channel's places, it goes over the wire, and the receiver copies it out of the place, which
// is then free again. A stage does nothing else while it copies. Each channel has a wire of its own, which carries one message after
// another; a message arrives `latency` after its last byte was sent.
struct LinkCosts {
  double latency = 0;                // seconds
  double bytes_per_second = 0;       // of a wire; 0: infinite
  double copy_bytes_per_second = 0;  // of these two copies, and of copies of inputs kept for recomputation; 0: infinite
};

// The messages of a skip (plan/channels.h), from piece to piece.
struct SkipCosts {
  Skip skip;
  int64_t activation_bytes = 0, gradient_bytes = 0;
};

struct Costs {
  std::vector<StageCosts> stages;
  std::vector<SkipCosts> skips;
  LinkCosts link;
};

// Costs that are equal for all stages: a pass takes `forward` and `backward` seconds on a stage, divided equally among its chunks and
// between the halves of a backward; all messages have one size; nothing else takes time.
Costs uniform_costs(int stages, int chunks, double forward, double backward, int64_t message_bytes);

struct SimulatedStage {
  double busy_seconds = 0;     // computing: neither waiting for messages nor copying them
  int copies = 1;              // of the weights
  int frames = 0, inputs = 0;  // the largest number in use at once, over all chunks
  // Memory: all copies of the weights, the gradient, the optimizer's state with the average for looking back, frames with the inputs kept
  // for recomputation, the arena.
  int64_t weight_bytes = 0, gradient_bytes = 0, state_bytes = 0, frame_bytes = 0, arena_bytes = 0;
  int64_t bytes() const { return weight_bytes + gradient_bytes + state_bytes + frame_bytes + arena_bytes; }
};

struct SimulatedPass {
  int stage = 0;
  Operation operation = Operation::forward;  // a pass, or backward_weight
  Tag tag;
  double begin = 0, end = 0;  // seconds
};

struct Simulation {
  double seconds = 0;       // from the first instruction to the last
  double step_seconds = 0;  // per mini-batch with a full pipeline: the time between the last stage's updates, over their middle half
  double bubble_share = 0;  // the share of the time of all stages in which they do not compute
  std::vector<SimulatedStage> stages;
};

// The programs must be ones that the audit accepts. `passes`, if given, gets all passes, in no particular order between stages. Throws
// UsageError where the costs are those of other stages or chunks, and for programs that deadlock.
Simulation simulate(const std::vector<Program>&, const Costs&, std::vector<SimulatedPass>* passes = nullptr);

}  // namespace pipecast
