#pragma once
// Programs: a method is, for each stage, a list of instructions. The audit, the drawing and the simulation (plan/, pure functions that need
// no device) and the stages (run/) all walk that same list, so they cannot disagree.
//
// The model is cut into pieces, each owned by one stage; a stage with several pieces has several chunks (plan/layout.h).
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "optim/look_ahead.h"

namespace pipecast {

enum class Operation {
  receive_activation,  // from the piece before; also loads what this piece reads from the data set, such as images or labels
  forward,             // reads the copy of the weights that `reads` names
  send_activation,     // to the piece after
  receive_gradient,    // from the piece after
  backward,            // dX with the weights that `reads` names, dW from the activations that the forward kept
  backward_input,      // the half of a backward that makes dX
  backward_weight,     // the other half, at any time after it: dW
  send_gradient,       // to the piece before
  recompute,           // the forward once more, from its input, where the forward kept nothing else
  step,                // one update of the latest weights with the gradient accumulated since the last one
  step_and_predict,    // a step, then a predict, in one pass over the weights
  predict,             // writes the predicted copy: where the weights will be `ahead` updates from now
  look_back,           // writes the predicted copy: an estimate of the weights `back` updates ago (optim/history.h)
  stash,               // saves the copy that `reads` names in `slot` of the stash, for passes that need it after it is overwritten
};
std::string to_string(Operation);

enum class Reads { latest, predicted, stash };
std::string to_string(Reads);

// A micro-batch on one chunk of the model: what a forward, a backward and a message belong to.
struct Tag {
  int64_t minibatch = 0;  // counted from the start of the program
  int micro = 0;          // micro-batch within the mini-batch
  int chunk = 0;          // of the stage's chunks, see Setting
  auto operator<=>(const Tag&) const = default;
};
std::string to_string(const Tag&);  // "mini-batch 3.0", with a chunk above 0 "mini-batch 3.0, chunk 1"

// One instruction: an operation, the pass or the mini-batch that it is for, and what else that operation needs. The fields from `reads` on,
// but for `chunk`, have their default values in operations that their comments do not name.
struct Instruction {
  Operation operation = Operation::forward;
  int64_t minibatch = 0;
  int micro = 0;
  Reads reads = Reads::latest;  // a pass: the copy of the weights that it reads; stash: the copy that it copies
  // predict, step_and_predict: how many updates ahead to predict. A pass: the same of the copy that it reads, for the audit to check.
  int ahead = 0;
  // look_back: how many updates to go back. A pass: the same of the copy that it reads, for the audit to check.
  int back = 0;
  int late = 0;  // step, step_and_predict: how many updates late the gradient is, for spike compensation
  int slot = 0;  // stash, and a pass that reads the stash: which slot
  int age = 0;   // a pass that reads `predicted` or `stash`: updates since the copy's content was the latest, or was predicted from it
  int chunk = 0;
  float scale = 1;   // step, step_and_predict: factor of the learning rate
  bool keep = true;  // forward: keeps its activations; else a recompute comes before the backward
  bool operator==(const Instruction&) const = default;

  Tag tag() const { return {minibatch, micro, chunk}; }
};
// The instructions of one stage, in order. A receive stands directly before the forward or backward that uses the message, a send directly
// after the one that made it. Receiving waits for the message; sending waits for a free place in the channel (plan/channels.h).
using Program = std::vector<Instruction>;

bool is_backward(Operation);  // backward or backward_input: what receives and sends gradients
bool is_pass(Operation);      // forward, recompute, backward or backward_input: what reads weights (backward_weight reads none)
bool is_step(Operation);      // step or step_and_predict
bool makes_prediction(Operation);  // predict or step_and_predict

enum class Recompute { never, except_last, always };  // except_last: all micro-batches of a mini-batch but the last
Recompute recompute_mode(const std::string& name);    // throws UsageError
std::string to_string(Recompute);
std::vector<std::string> recompute_modes();

// What a program is made for: the mini-batches from one fill of the pipeline to the next drain.
struct Setting {
  int stages = 1;
  int64_t minibatches = 1;
  int micro_batches = 1;
  LookAheadMode look_ahead = LookAheadMode::paper;
  // Pieces of the model that a stage owns (plan/channels.h). 0: as many as the method takes by itself.
  int chunks = 0;
  Recompute recompute = Recompute::never;
  int64_t done = 0;         // mini-batches of the run before this program
  int64_t synchronous = 0;  // how many mini-batches at the beginning of the run are trained synchronously
  int64_t rescale = 0;      // where the method starts with lower learning rates: over how many mini-batches they grow to the full one
  bool lag_rates = false;   // divide a stage's learning rate by its staleness(), where that is above 1
};

// Throws UsageError where a number is out of range (pipeline/limits.h), or where the passes of all stages together are too many.
void check_setting(const Setting&);

struct Method {
  std::string name, summary;
  Program (*program)(const Setting&, int stage);
  int chunks = 1;              // of a stage, unless the setting says otherwise; 1: the method cannot have more
  std::string optimizer = {};  // the one that the method requires; empty: any
  float beta1 = 0;             // of that optimizer, where the user names no optimizer
};
// All methods. One that ships is a file in methods/ and a row in methods.cc; a fork adds its own with register_method(), which throws
// UsageError for a name that is taken.
const std::vector<Method>& methods();
void register_method(Method);
const Method& find_method(const std::string& name);                 // throws UsageError with the nearest known name
std::vector<Program> make_programs(const Method&, const Setting&);  // one per stage
// Chunks of a stage: as many as were asked for, or the method's own number where 0 were.
inline int chunks_of(const Method& method, int asked) { return asked > 0 ? asked : method.chunks; }

// The order of passes that asynchronous methods share: one forward, one backward, in turns (1F1B; PipeDream, SOSP 2019).
// Stage k begins with min(stages - 1 - k, passes) forwards, then alternates, then drains; an update follows the backward of
// the last micro-batch of each mini-batch. All passes read the latest weights.
Program one_forward_one_backward(const Setting&, int stage);

// A program in which the pipeline drains after every mini-batch: `of_one` makes the program of one mini-batch.
Program one_by_one(const Setting&, int stage, Program (*of_one)(const Setting&, int stage));

// The weights that a pass is to read: a version (the weights after so many updates), or what is predicted or estimated from it.
struct Wanted {
  int64_t version = 0;
  int ahead = 0, back = 0;  // updates predicted, or looked back; one of them at most
  bool predicted() const { return ahead != 0 || back != 0; }
  auto operator<=>(const Wanted&) const = default;
};
// A pass for which a method chooses the weights.
struct Reader {
  const Instruction& pass;  // any is_pass()
  int64_t live;             // the version of the latest weights when the pass runs
  int lag;                  // updates between this micro-batch's forward and its backward, see true_lags()
  bool forward() const { return pass.operation == Operation::forward; }
};
// The same program, in which each pass reads the weights that `wanted` returns for it. `wanted` is called in the order of the passes.
//   - It may not return a version newer than `live`; a prediction must start from the version that is live where it is first wanted.
//   - A prediction is made by the last step before its first reader (step_and_predict), or else by an instruction of its own.
//   - A copy that would be overwritten before its last reader is stashed.
Program with_weights(const Program&, const std::function<Wanted(const Reader&)>& wanted);

// The same program with activation recomputation: where `mode` says so, a forward keeps its input only, and a recompute, which reads the
// same weights as the backward, stands before the backward.
Program with_recomputation(const Program&, Recompute mode, int micro_batches);

// Appends `more`, whose mini-batch 0 becomes mini-batch `first_minibatch`.
void append(Program&, const Program& more, int64_t first_minibatch);

// How many updates lie between the forward of each pass and its backward, in the order of the forwards: the true lag.
std::vector<int> true_lags(const Program&);

// The largest number of updates between the version that a forward reads (or that its prediction starts from) and its backward.
int staleness(const Program&);

// Whether every pass of every stage reads weights that were updated with all earlier mini-batches, and nothing predicted. All synchronous
// methods give the same gradients.
bool is_synchronous(const std::vector<Program>&);

int64_t minibatches(const std::vector<Program>&);  // how many
int chunks(const std::vector<Program>&);           // per stage
// The activation frames that a chunk needs: the largest number of passes in flight at once that keep their activations.
int frames_needed(const Program&, int chunk = 0);
// The largest number of passes in flight at once of which a chunk keeps only the input, because they will be recomputed.
int inputs_needed(const Program&, int chunk = 0);
bool splits_backward(const Program&);
bool predicts(const Program&);    // or looks back: whether it needs the second copy of the parameter store
bool looks_back(const Program&);
// Slots of the stash: copies of the weights beyond those of the parameter store. 0 for most methods.
int stash_slots(const Program&);
// Copies of the weights in all: the latest, the predicted one, the slots of the stash.
int copies_needed(const Program&);

// Forward-only evaluation of `batches` batches with the latest weights, cut into micro-batches as in training, so that it takes no more
// memory for activations than training.
Program evaluation_program(const Setting&, int64_t batches, int stage);

}  // namespace pipecast
