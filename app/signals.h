#pragma once
// SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask a run to stop where it can be resumed.
#include <string>

#include "engine/error.h"

namespace pipecast {

// From now on the first of these signals is only noted; the second ends the process as if they were not looked for. A signal that the
// process was started with as ignored (a shell does so for the background jobs of a script) stays ignored.
void catch_signals();
// The name of the signal that came; "" while none has.
std::string caught_signal();

// The run was stopped by a signal, is saved and can be resumed: what ends it, with a sentence that says how.
class Interrupted : public Error {
 public:
  using Error::Error;
};

}  // namespace pipecast
