#pragma once
// The checkpoints of a training on the disk, each one whole or not there. A checkpoint is a folder:
//
//   000000000780/           the mini-batches done
//     stage-0.safetensors   one file per stage
//     manifest.json         the format's version, the description, and for every file its name, bytes and SHA-256
//     complete              the SHA-256 of manifest.json: a checkpoint is complete once this file says so
//
// It is written as 000000000780.tmp, synced, renamed, the parent folder synced, and marked complete last of all. A checkpoint with that
// number that is there already is renamed to 000000000780.old before, counts until the new one is complete, and goes then: there is no
// moment without a complete one. One process writes to a store at a time; any number read.
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

  // On the disk when it returns. Throws Error in one sentence; what was there before is whole then, and no half of the new one is left.
  void write(const Checkpoint&) const;
  // Every byte is verified. Throws UsageError naming file and defect, and what to do.
  Checkpoint read(int64_t minibatch) const;
  // Ascending; those that are marked complete and whose manifest the marker confirms.
  std::vector<int64_t> complete() const;
  // Keeps the last `keep` complete checkpoints and the best; removes the other complete ones and what interrupted writes left. A damaged
  // one, with a marker that confirms nothing, stays: it may be worth something to a person.
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
