#pragma once
// Options that were set and have no effect in the run that they are set for, such as milestones under a schedule that has none. Who sets
// one believes that it does something.
#include <string>
#include <vector>

#include "app/training_options.h"

namespace pipecast {

struct UnreadOption {
  std::string name, sentence;
};
// Those whose value is not the default. `resolved` is what the options are bound to. What is registered from outside may read them all.
std::vector<UnreadOption> unread_options(const Options&, const TrainingOptions& resolved);

// Throws UsageError with their sentences.
void check_all_read(const Options&, const TrainingOptions& resolved);

}  // namespace pipecast
