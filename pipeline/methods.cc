#include "engine/error.h"
#include "pipeline/program.h"

namespace pipecast {

// One per file in methods/.
Program gpipe_program(const Setting&, int stage);
Program one_f_one_b_flush_program(const Setting&, int stage);
Program pipedream_program(const Setting&, int stage);
Program pipedream_2bw_program(const Setting&, int stage);
Program pipeoptim_program(const Setting&, int stage);
Program vanilla_program(const Setting&, int stage);

const std::vector<Method>& methods() {
  static const std::vector<Method> table = {
      {"pipeoptim", "1F1B; the forward reads weights predicted for its backward, the backward the latest", pipeoptim_program},
      {"pipedream", "1F1B with weight stashing; forward and backward of a mini-batch read the same weights", pipedream_program},
      {"pipedream-2bw", "1F1B over micro-batches with two versions; every pass reads weights one update old", pipedream_2bw_program},
      {"gpipe", "synchronous; all micro-batches forward, then all backward, then one update", gpipe_program},
      {"1f1b-flush", "synchronous; the gradient of gpipe with fewer activations held", one_f_one_b_flush_program},
      {"vanilla", "1F1B; forward and backward read the latest weights", vanilla_program},
  };
  return table;
}

const Method& find_method(const std::string& name) {
  std::vector<std::string> known;
  for (const Method& method : methods()) {
    if (method.name == name) return method;
    known.push_back(method.name);
  }
  throw UsageError(unknown_name("method", name, known));
}

std::vector<Program> make_programs(const Method& method, const Setting& setting) {
  auto at_least = [](const char* what, int64_t value, int64_t least) {
    if (value < least)
      throw UsageError("the number of " + std::string(what) + " is " + std::to_string(value) + "; give at least " + std::to_string(least));
  };
  at_least("stages", setting.stages, 1);
  at_least("mini-batches", setting.minibatches, 0);
  at_least("micro-batches", setting.micro_batches, 1);
  std::vector<Program> programs;
  for (int stage = 0; stage < setting.stages; ++stage) programs.push_back(method.program(setting, stage));
  return programs;
}

}  // namespace pipecast
