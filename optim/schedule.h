#pragma once
// Learning rates as a pure function of progress, so that a look-ahead can read the rates of future updates.
#include <cstdint>
#include <string>
#include <vector>

namespace pipecast {

// Every schedule moves with each update. With t = the update's number (0 for the first), E = updates per epoch,
// T = epochs * E and W = warmup_epochs * E, rounded; boundaries fall on the nearest update:
//
//   t < W, any schedule   rate * (t + 1) / W
//   constant              rate
//   step                  rate * gamma^floor(t / (step_epochs * E))              epochs counted from the start of training
//   multi-step            rate * gamma^(number of milestones m with m * E <= t)  the same
//   cosine                final_rate + (rate - final_rate) * (1 + cos(pi * p)) / 2    p = (t - W) / (T - W), at most 1
//   inverse-sqrt          rate * sqrt(max(W, 1) / max(t, 1))                     Vaswani et al. 2017
//   polynomial            final_rate + (rate - final_rate) * (1 - p)^power            the same
struct Schedule {
  std::string name = "constant";  // of schedule_names()
  float rate = 0.1f;              // the base
  double epochs = 1;              // cosine and polynomial end here
  double warmup_epochs = 0;
  double step_epochs = 30;              // step
  std::vector<double> milestones = {};  // multi-step, in rising order
  float gamma = 0.1f;                   // step and multi-step
  float power = 2;                      // polynomial
  float final_rate = 0;                 // cosine and polynomial

  // The rate of update number t (0 for the first) when an epoch has `updates` updates.
  float at(int64_t t, int64_t updates) const;
  // Throws UsageError for an unknown name or values out of range; several mistakes are reported together, one a line.
  void validate() const;
};
std::vector<std::string> schedule_names();

// The position of an update after the warm-up.
struct ScheduleProgress {
  int64_t t = 0, updates = 1;  // the update's number, 0 for the first; updates per epoch
  double warmup = 0;           // W above
  double share = 0;            // p above: the share of the updates after the warm-up that are done
};
struct ScheduleEntry {
  std::string name;
  double (*rate)(const Schedule&, const ScheduleProgress&);
  bool ends = false;  // it depends on the end of training, so the warm-up must be shorter than training
};
// Adds a schedule that can then be chosen by its name. Throws UsageError for a name that is taken.
void register_schedule(ScheduleEntry);

}  // namespace pipecast
