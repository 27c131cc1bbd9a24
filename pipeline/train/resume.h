#pragma once
// What must be the same, and what may change, when a run is resumed.
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/run/checkpoint_store.h"
#include "pipeline/train/trainer.h"

namespace pipecast {

using NamedValues = std::vector<std::pair<std::string, std::string>>;

// The description of a run in its checkpoints and in the first line of its metrics.
struct RunOrigin {
  std::string version;  // of the program that trains
  NamedValues options;  // all that say what the run is, by the names of the command's options
  // What the run is trained on and by, beyond its options: an object of sizes and digests by what they are of, which must be the same when
  // the run goes on. `identity` and `notes` are JSON text.
  std::string identity = "{}";
  std::string notes = "{}";                                                  // an object of what else the first line is to say
  std::map<std::string, std::string> weights_metadata = {{"format", "pt"}};  // what weights.safetensors says of itself
};

// The part of a checkpoint's description that is the same in all checkpoints of a run.
nlohmann::ordered_json description(const RunOrigin&);
// The whole description. Throws UsageError where another version wrote it.
nlohmann::ordered_json description(const Checkpoint&);

// Throws UsageError naming what differs between two identities.
void check_identity(const nlohmann::ordered_json& before, const nlohmann::ordered_json& now);

struct Change {
  std::string option, before, now;
};
// The options whose values differ. Throws UsageError naming those that cannot be changed when a run is resumed.
std::vector<Change> changes(const nlohmann::ordered_json& before, const NamedValues& now);

// Why a run with these changes does not end, bit for bit, as one does that had its options from the beginning; "" where it does.
// synchronous: whether its programs are (is_synchronous); at_stop: whether that run's pipeline, too, drains where this one goes on.
std::string why_not_identical(const std::vector<Change>&, const TrainerOptions&, bool synchronous, bool at_stop);

}  // namespace pipecast
