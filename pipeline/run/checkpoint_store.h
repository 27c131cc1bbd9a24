#pragma once
// The checkpoints of a run on the disk. Each is complete or does not count. A checkpoint is a folder:
//
//   000000000780/           the mini-batches done
//     stage-0.safetensors   one file per stage
//     manifest.json         the format's version, the description, and for every file its name, bytes and SHA-256
//     complete              the SHA-256 of manifest.json: a checkpoint is complete once this file says so
//
// It is written as 000000000780.tmp, synced, renamed, the parent folder synced, and marked complete last of all. If a checkpoint with that
// number exists, it is renamed to 000000000780.old before; it counts until the new one is complete, and is then removed. So there is always
// a complete one. One process writes to a store at a time; any number may read.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/files/safetensors.h"

namespace pipecast {

struct Checkpoint {
  int64_t minibatch = 0;            // done so far, counted over the whole training: it names the checkpoint's folder
  std::string description;          // JSON text of its maker (position, configuration); not read here
  std::vector<SafeTensors> stages;  // one file each: stage-0.safetensors, ...
};

class CheckpointStore {
 public:
  explicit CheckpointStore(std::string folder) : folder_(std::move(folder)) {}  // made by the first write

  // The checkpoint is on the disk when it returns. Throws Error; then earlier checkpoints are unharmed, and nothing of the new one is left.
  void write(const Checkpoint&) const;
  // Verifies every byte. Throws UsageError naming the file, the defect and what to do.
  Checkpoint read(int64_t minibatch) const;
  // Ascending; those that are marked complete and whose manifest the marker confirms.
  std::vector<int64_t> complete() const;
  // Keeps the last `keep` complete checkpoints and the best; removes the other complete ones and the remains of interrupted writes. A
  // damaged checkpoint, whose marker does not fit its manifest, is kept: a person may still be able to use it.
  void prune(int keep, std::optional<int64_t> best) const;

  const std::string& folder() const { return folder_; }

 private:
  std::string place_of(int64_t minibatch) const;
  std::vector<int64_t> minibatches() const;
  std::string what_to_do(int64_t minibatch) const;

  std::string folder_;
};

// What a checkpoint's files must be.
struct Manifest {
  struct File {
    std::string name;  // stage-K.safetensors for the K-th
    int64_t bytes = 0;
    std::string sha256;  // 64 digits, a to f small
  };
  int64_t minibatch = 0;
  std::string description;
  std::vector<File> files;
};

// Over memory, for fuzzing: throws UsageError naming the origin and the defect for whatever is not such a manifest.
Manifest parse_manifest(const uint8_t* data, size_t size, const std::string& origin);

}  // namespace pipecast
