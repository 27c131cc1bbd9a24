#pragma once
// What a run must have in common with the one that it goes on from.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "app/training_options.h"

namespace pipecast {

// The values of all options that say what a run is, by name.
nlohmann::ordered_json option_values(const Options&);

// What the run is trained on and by, beyond its options: sizes and digests of the data set, of the program file.
nlohmann::ordered_json identity(const Dataset&, const TrainingOptions&);
// Throws UsageError naming what differs.
void check_identity(const nlohmann::ordered_json& before, const nlohmann::ordered_json& now);

struct Change {
  std::string option, before, now;
};
// The options whose values differ. Throws UsageError naming those that a run cannot change on its way.
std::vector<Change> changes(const nlohmann::ordered_json& before, const Options& now);

// Why a run with these changes does not end, bit for bit, as one does that had its options from the beginning; "" where it does.
// synchronous: whether its programs are (is_synchronous); at_stop: whether that run's pipeline, too, drains where this one goes on.
std::string why_not_identical(const std::vector<Change>&, const TrainingOptions&, bool synchronous, bool at_stop);

}  // namespace pipecast
