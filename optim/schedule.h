#pragma once
// Learning rates as a pure function of progress, so that a look-ahead can read the rates of future updates.
#include <cstdint>
#include <string>
#include <vector>

namespace pipecast {

struct Schedule {
  std::string name = "constant";          // constant, step, multi-step, cosine, polynomial
  float rate = 0.1f;                      // the base
  double epochs = 1;                      // cosine and polynomial end here
  double warmup_epochs = 0;               // linear from rate / (number of warm-up updates) to rate, before the schedule proper
  double step_epochs = 30;                // step: multiply by gamma each so many epochs
  std::vector<double> milestones;         // multi-step: multiply by gamma at each of these epochs
  float gamma = 0.1f;
  float power = 2;                        // polynomial: (1 - progress)^power
  float final_rate = 0;                   // cosine and polynomial end at this

  // The rate of update number t (0 for the first) when an epoch has `updates` updates.
  float at(int64_t t, int64_t updates) const;
  // Throws UsageError for an unknown name or a value out of range.
  void validate() const;
};
std::vector<std::string> schedule_names();

}  // namespace pipecast
