#pragma once
// Which weights each pass reads, found by walking the programs of all stages together as the machine would.
#include <string>
#include <vector>

#include "engine/error.h"
#include "pipeline/program.h"

namespace pipecast {

struct AuditedPass {
  int stage = 0;
  int64_t minibatch = 0;
  int micro = 0, chunk = 0;
  Operation operation = Operation::forward;  // or recompute, backward, backward_input, backward_weight
  Reads reads = Reads::latest;
  int64_t version = 0;  // updates of the copy that is read; for a prediction, of the copy it starts from
  int ahead = 0;        // s: updates predicted ahead
  int64_t live = 0;     // the newest version at that moment
  int64_t time = 0;     // clock tick: the earliest at which it can run when every pass takes one tick

  bool backward() const { return is_backward(operation); }
};

struct AuditedStep {
  int stage = 0;
  float scale = 1;   // factor of the learning rate
  int late = 0;      // updates by which it takes its gradient to be late
  int64_t time = 0;  // the end of the pass before it
};

struct Audit {
  std::vector<int> copies;          // of the weights, per stage: the latest, the predicted one where there is one, the slots of the stash
  std::vector<int> slots;           // those of the stash among them
  std::vector<int> frames;          // per stage, of all its chunks
  std::vector<AuditedPass> passes;  // by stage, then in the order they run
  std::vector<AuditedStep> steps;   // likewise
};

// What an audit found wrong, with what it had seen until then.
struct AuditFault : UsageError {
  struct Mark {
    int stage;
    int64_t time;
  };
  AuditFault(const std::string& what, std::vector<AuditedPass> passes, std::vector<Mark> marks)
      : UsageError(what), passes(std::move(passes)), marks(std::move(marks)) {}
  std::vector<AuditedPass> passes;
  std::vector<Mark> marks;  // where the fault is, or who waits
};

// Throws AuditFault naming stage, instruction and pass for programs that cannot run or cannot be meant: they deadlock, a pass
// is missing, doubled or out of order, a message is not the one that is expected, a pass reads a copy that does not hold what it
// expects, a copy is made and not read, an update has no gradient, half of one, more than one mini-batch's, or leaves one unused, a stage
// needs more copies of the weights than most_copies (0: any number).
Audit audit(const std::vector<Program>&, int most_copies = 0);

// {"method","stages","copies","frames","passes":[{"stage","minibatch","micro","chunk","pass","reads","version","ahead","live"}]}
std::string audit_json(const std::string& method, const Audit&);

}  // namespace pipecast
