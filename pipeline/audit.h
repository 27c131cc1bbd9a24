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

struct Audit {
  std::vector<int> copies, frames;  // per stage; frames of all its chunks
  std::vector<AuditedPass> passes;  // by stage, then in the order they run
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
// expects, a copy is made and not read, an update has no gradient, half of one, more than one mini-batch's, or leaves one unused.
Audit audit(const std::vector<Program>&);

// {"method","stages","copies","frames","passes":[{"stage","minibatch","micro","chunk","pass","reads","version","ahead","live"}]}
std::string audit_json(const std::string& method, const Setting&, const Audit&);

}  // namespace pipecast
