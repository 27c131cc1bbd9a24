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

  // Returns while a thread of its own writes, once the checkpoint before is written; throws Error where that could not be. What was
  // complete before stays so.
  void write(Checkpoint, std::optional<int64_t> best);
  // Waits for the last one; throws Error where it could not be written.
  void finish();
  // Removes what is not kept: the newest is that of mini-batch `newest`.
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
