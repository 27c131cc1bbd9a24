#pragma once
// pipeline/ has two halves that meet in this file: the plan (methods/, audit, partition: pure functions that need no device)
// and the run (section, stage, executor, trainer, transport/). A method is a program: for each stage, a list of
// instructions. The runner, the auditor and the drawing walk that same list, so none of them can disagree.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "optim/optimizer.h"

namespace pipecast {

enum class Operation {
  receive_activation,  // from the stage before (stage 0: the images of this pass)
  forward,             // reads the copy of the weights that `reads` names
  send_activation,     // to the stage after
  receive_gradient,    // from the stage after
  backward,            // dX uses the copy that `reads` names; dW the activations that the forward kept
  send_gradient,       // to the stage before
  step,                // one update of the latest weights with the gradient accumulated since the last one
  predict,             // writes the predicted copy: where the weights will be `ahead` updates from now
  stash,               // copies the latest weights to `slot` of the stash, for passes that read them when they are no longer the latest
};
std::string to_string(Operation);

enum class Reads { latest, predicted, stash };
std::string to_string(Reads);

struct Instruction {
  Operation operation = Operation::forward;
  int64_t minibatch = 0;        // counted from the start of the program
  int micro = 0;                // micro-batch within the mini-batch
  Reads reads = Reads::latest;  // forward and backward
  int ahead = 0;                // predict, and a forward that reads what it wrote: the updates ahead, s
  int slot = 0;                 // stash, and a pass that reads it
  bool operator==(const Instruction&) const = default;
};
// Of one stage. What is received is used at once and what is made is sent at once: a receive stands directly before its forward
// or backward, a send directly after it. Receiving waits for the message, sending for a free place on the link.
using Program = std::vector<Instruction>;
constexpr int link_capacity = 2;  // messages under way between two stages, in each direction

// What a program is made for: the mini-batches from one fill of the pipeline to the next drain.
struct Setting {
  int stages = 1;
  int64_t minibatches = 1;
  int micro_batches = 1;
  LookAheadMode look_ahead = LookAheadMode::paper;
};

struct Method {
  std::string name, summary;
  Program (*program)(const Setting&, int stage);
};
// The methods there are: a method is its file in methods/ and its row in methods.cc.
const std::vector<Method>& methods();
const Method& find_method(const std::string& name);                 // throws UsageError with the nearest known name
std::vector<Program> make_programs(const Method&, const Setting&);  // one per stage

// The order of passes that asynchronous methods share: one forward, one backward, in turns (1F1B; PipeDream, SOSP 2019).
// Stage k begins with min(stages - 1 - k, passes) forwards, then alternates, then drains; an update follows the backward of
// the last micro-batch of each mini-batch. All passes read the latest weights.
Program one_forward_one_backward(const Setting&, int stage);

// All micro-batches of a mini-batch forward, then all backward from the last to the first, then the update: GPipe's order, which
// drains the pipeline for every mini-batch. All passes read the latest weights, which do not change in between.
Program forward_then_backward(const Setting&, int stage);

// The same program, but a pass reads the version of the weights that `version(minibatch, live)` names, live being the newest
// at its forward: the latest while they are that version, else a stash, written before the step that would overwrite them.
// Versions do not fall from one forward to the next and are never newer than live.
Program with_versions(const Program&, const std::function<int64_t(int64_t minibatch, int64_t live)>& version);

// How many updates lie between the forward of each pass and its backward, in the order of the forwards: the true lag.
std::vector<int> true_lags(const Program&);

// Passes in flight at once at most: the number of activation frames the stage needs.
int frames_needed(const Program&);
// Whether the program predicts, and so needs the second copy of the parameter store.
bool predicts(const Program&);
// Slots of the stash: copies of the weights beyond those of the parameter store. 0 for most methods.
int stash_slots(const Program&);
// Copies of the weights in all: the latest, the predicted one, the stash.
int copies_needed(const Program&);

// Forward-only evaluation of `batches` batches with the latest weights.
Program evaluation_program(int stages, int64_t batches, int stage);

}  // namespace pipecast
