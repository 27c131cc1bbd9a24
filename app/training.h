#pragma once
// A training run, from its options to a run's folder.
#include <string>

#include "app/run_folder.h"
#include "app/run_result.h"
#include "app/training_options.h"

namespace pipecast {

class Training {
 public:
  // Resolves the options, which must outlive it, and takes all memory. Throws UsageError for everything that is wrong with them:
  // after this a run may only fail, not be mistaken.
  explicit Training(TrainingOptions&);
  Training(const Training&) = delete;

  // Trains into the folder and leaves its files. Throws Diverged where it came to nothing.
  RunResult run(const RunFolder&, const std::string& configuration);

 private:
  const TrainingOptions& options_;
  TrainingInput input_;
  Batches train_, test_;
  Trainer trainer_;
};

}  // namespace pipecast
