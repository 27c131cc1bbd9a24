#pragma once
// Which weights each pass reads, found by walking the programs of all stages together as the machine would.
#include <string>
#include <vector>

#include "pipeline/program.h"

namespace pipecast {

struct AuditedPass {
  int stage = 0;
  int64_t minibatch = 0;
  int micro = 0;
  bool backward = false;
  Reads reads = Reads::latest;
  int64_t version = 0;  // updates of the copy that is read; for a prediction, of the copy it starts from
  int ahead = 0;        // s: updates predicted ahead
  int64_t live = 0;     // the newest version at that moment
  int64_t time = 0;     // clock tick: the earliest at which it can run when every pass takes one tick
};

struct Audit {
  std::vector<int> copies, frames;  // per stage
  std::vector<AuditedPass> passes;  // by stage, then in the order they run
};

// Throws UsageError naming stage, instruction and pass for programs that cannot run or cannot be meant: they deadlock, a pass
// is missing, doubled or out of order, a message is not the one that is expected, a prediction is read that was not made from
// the latest weights or is made and not read, an update has no gradient, more than one mini-batch's, or leaves one unused.
Audit audit(const std::vector<Program>&);

// {"method","stages","copies","frames","passes":[{"stage","minibatch","micro","pass","reads","version","ahead","live"}]}
std::string audit_json(const std::string& method, const Setting&, const Audit&);

}  // namespace pipecast
