#pragma once
// A training run as the command shows it: from its options to a run's folder. The run itself is pipeline/train/epoch_loop.h.
#include <string>

#include "app/options.h"
#include "app/training_options.h"
#include "pipeline/run/checkpoint_store.h"
#include "pipeline/train/resume.h"
#include "pipeline/train/run_folder.h"
#include "pipeline/train/run_result.h"

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
  RunOrigin origin(const Options&) const;

  const TrainingOptions& options_;
  TrainingInput input_;
  Batches train_, test_;
  Trainer trainer_;
};

}  // namespace pipecast
