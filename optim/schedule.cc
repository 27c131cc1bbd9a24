#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include "engine/registry.h"

namespace pipecast {
namespace {

// Whether update t is at or after the boundary `epochs`, which falls on the update nearest to it.
bool reached(int64_t t, double epochs, int64_t updates) { return double(t) + 0.5 > epochs * double(updates); }

double step(const Schedule& s, const ScheduleProgress& at) {
  const double passed = std::ceil((double(at.t) + 0.5) / (s.step_epochs * double(at.updates))) - 1;  // multiples of step_epochs reached()
  return s.rate * std::pow(double(s.gamma), passed);
}

double multi_step(const Schedule& s, const ScheduleProgress& at) {
  const auto passed =
      std::count_if(s.milestones.begin(), s.milestones.end(), [&](double epoch) { return reached(at.t, epoch, at.updates); });
  return s.rate * std::pow(double(s.gamma), double(passed));
}

double cosine(const Schedule& s, const ScheduleProgress& at) {
  return s.final_rate + (double(s.rate) - s.final_rate) * (1 + std::cos(std::numbers::pi * at.share)) / 2;
}

double polynomial(const Schedule& s, const ScheduleProgress& at) {
  return s.final_rate + (double(s.rate) - s.final_rate) * std::pow(1 - at.share, double(s.power));
}

double inverse_sqrt(const Schedule& s, const ScheduleProgress& at) {
  return s.rate * std::sqrt(std::max(at.warmup, 1.0) / std::max(double(at.t), 1.0));
}

Registry<ScheduleEntry>& registry() {
  static Registry<ScheduleEntry> schedules = registry_of<ScheduleEntry>(
      "learning-rate schedule", {{"constant", [](const Schedule& s, const ScheduleProgress&) { return double(s.rate); }},
                                 {"step", step},
                                 {"multi-step", multi_step},
                                 {"cosine", cosine, true},
                                 {"polynomial", polynomial, true},
                                 {"inverse-sqrt", inverse_sqrt}});
  return schedules;
}

}  // namespace

void register_schedule(ScheduleEntry entry) { registry().add(std::move(entry)); }

std::vector<std::string> schedule_names() { return registry().names(); }

float Schedule::at(int64_t t, int64_t updates) const {
  const double warmup = std::round(warmup_epochs * double(updates)), end = epochs * double(updates);
  if (double(t) < warmup) return float(double(rate) * double(t + 1) / warmup);
  const double share = double(t) < end ? std::clamp((double(t) - warmup) / (end - warmup), 0.0, 1.0) : 1;
  return float(registry().find(name).rate(*this, {t, updates, warmup, share}));
}

void Schedule::validate() const {
  std::string mistakes;
  auto require = [&](bool good, const std::string& mistake) {
    if (!good) mistakes += (mistakes.empty() ? "" : "\n") + mistake;
  };
  // Written so that a NaN fails.
  auto in_range = [&](const char* what, double value, bool good, const char* range) {
    require(good && std::isfinite(value), std::string(what) + " is " + std::to_string(value) + ": it must be " + range);
  };
  const ScheduleEntry* found = registry().search(name);
  if (!found) require(false, unknown_name("learning-rate schedule", name, schedule_names()));
  in_range("learning rate", rate, rate >= 0, "a number that is not negative");
  in_range("the number of epochs", epochs, epochs > 0, "a number above 0");
  in_range("the number of warm-up epochs", warmup_epochs, warmup_epochs >= 0, "a number that is not negative");
  in_range("the schedule's step in epochs", step_epochs, step_epochs > 0, "a number above 0");
  in_range("the schedule's gamma", gamma, gamma > 0, "a number above 0");
  in_range("the schedule's power", power, power > 0, "a number above 0");
  in_range("the final learning rate", final_rate, final_rate >= 0, "a number that is not negative");
  for (double milestone : milestones) in_range("a milestone", milestone, milestone > 0, "an epoch above 0");
  bool rising = std::adjacent_find(milestones.begin(), milestones.end(), std::greater_equal<>()) == milestones.end();
  require(rising, "the milestones must rise from each to the next");
  require(name != "multi-step" || !milestones.empty(), "the multi-step schedule needs at least one milestone");
  require(!(found && found->ends) || !(warmup_epochs >= epochs), "the warm-up lasts " + std::to_string(warmup_epochs) +
                                                                                        " of " + std::to_string(epochs) + " epochs: the " +
                                                                                        name + " schedule needs it to be shorter");
  if (!mistakes.empty()) throw UsageError(mistakes);
}

}  // namespace pipecast
