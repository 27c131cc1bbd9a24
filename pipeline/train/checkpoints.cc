#include "pipeline/train/checkpoints.h"

#include <algorithm>

#include "engine/error.h"

namespace pipecast {

void CheckpointWriter::write(Checkpoint checkpoint, std::optional<int64_t> best) {
  finish();
  in_flight_ = std::async(std::launch::async, [this, best, checkpoint = std::move(checkpoint)] {
    metrics_.sync();
    store_.write(checkpoint);
    prune(checkpoint.minibatch, best);
  });
}

// Newer ones than the newest are damaged, else training would have gone on from them: they take no place of the last ones.
void CheckpointWriter::prune(int64_t newest, std::optional<int64_t> best) const {
  const std::vector<int64_t> all = store_.complete();
  const auto newer = std::count_if(all.begin(), all.end(), [&](int64_t minibatch) { return minibatch > newest; });
  store_.prune(keep_ + int(newer), best);
}

void CheckpointWriter::finish() {
  if (in_flight_.valid()) in_flight_.get();
}

Checkpoint newest_checkpoint(const std::string& folder, const std::function<void(const std::string&)>& warn) {
  const CheckpointStore store(folder);
  std::vector<int64_t> all = store.complete();
  if (all.empty()) throw UsageError("there is no complete checkpoint in '" + folder + "'");
  for (; all.size() > 1; all.pop_back()) {
    try {
      return store.read(all.back());
    } catch (const UsageError& error) {
      warn(error.what());
    }
  }
  return store.read(all.back());
}

}  // namespace pipecast
