#pragma once
// What runs of several entries, each with several seeds, came to: as a table and as curves.
#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/train/run_result.h"

namespace pipecast {

struct ComparedRun {
  uint64_t seed = 0;
  std::string folder;
  RunResult result;
  std::string failure;  // a sentence where the run neither came to its end nor diverged
};

struct ComparedEntry {
  std::string name;
  std::vector<ComparedRun> runs;  // one per seed
};

using Comparison = std::vector<ComparedEntry>;

// Means, deviations and curves are over the runs that came to their end.
std::string comparison_text(const Comparison&);
std::string comparison_markdown(const std::string& title, const std::string& configuration, const Comparison&);
std::string comparison_html(const std::string& title, const std::string& configuration, const Comparison&);
std::string comparison_json(const Comparison&);

}  // namespace pipecast
