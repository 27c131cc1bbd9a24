#pragma once
// A training run, from its options to a run's folder.
#include <string>

#include "app/options.h"
#include "app/run_folder.h"
#include "app/run_result.h"
#include "app/training_options.h"
#include "pipeline/run/checkpoint_store.h"

namespace pipecast {

class Training {
 public:
  // Resolves the options, which must outlive it, and takes all memory. Throws UsageError for everything that is wrong with them:
  // after this a run may only fail, not be mistaken. resumed: resume() will be called, not run().
  explicit Training(TrainingOptions&, bool resumed = false);
  Training(const Training&) = delete;

  // Trains into the folder and leaves its files. `options` are those that the TrainingOptions are bound to. Throws Diverged where it
  // came to nothing, Interrupted where a signal asked it to stop.
  RunResult run(const RunFolder&, const Options& options);
  // The same from a checkpoint of the run in that folder. Throws UsageError, and changes nothing, where it is another run's.
  RunResult resume(const RunFolder&, const Options&, const Checkpoint&);

 private:
  const TrainingOptions& options_;
  TrainingInput input_;
  Batches train_, test_;
  Trainer trainer_;
};

}  // namespace pipecast
