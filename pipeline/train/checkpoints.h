#pragma once
// Checkpoints of a run, written beside its training.
#include <functional>
#include <future>

#include "pipeline/train/metrics.h"
#include "pipeline/run/checkpoint_store.h"

namespace pipecast {

class CheckpointWriter {
 public:
  // The last `keep` checkpoints are kept, and the best one. `metrics` is on the disk before a checkpoint that counts its bytes.
  CheckpointWriter(const std::string& folder, int keep, const Metrics& metrics) : store_(folder), keep_(keep), metrics_(metrics) {}

  // Waits until the previous checkpoint is written, then returns while a thread writes this one. Throws Error where the previous one could
  // not be written. Complete checkpoints stay complete.
  void write(Checkpoint, std::optional<int64_t> best);
  // Waits until the last one is written; throws Error where it could not be.
  void finish();
  // Removes the checkpoints that are not kept. newest: the mini-batch of the newest one.
  void prune(int64_t newest, std::optional<int64_t> best) const;

 private:
  CheckpointStore store_;
  int keep_;
  const Metrics& metrics_;
  std::future<void> in_flight_;  // its destructor waits
};

// The newest checkpoint that is whole. `warn` gets a sentence for each newer one that is not. Throws UsageError where none is whole.
Checkpoint newest_checkpoint(const std::string& folder, const std::function<void(const std::string&)>& warn);

}  // namespace pipecast
