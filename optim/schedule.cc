#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include "engine/error.h"

namespace pipecast {
namespace {

// Whether update t is at or after the boundary `epochs`, which falls on the update nearest to it.
bool reached(int64_t t, double epochs, int64_t updates) { return double(t) + 0.5 > epochs * double(updates); }

}  // namespace

std::vector<std::string> schedule_names() { return {"constant", "step", "multi-step", "cosine", "polynomial"}; }

float Schedule::at(int64_t t, int64_t updates) const {
  const double warmup = std::round(warmup_epochs * double(updates)), base = rate;
  if (double(t) < warmup) return float(base * double(t + 1) / warmup);

  if (name == "step") {
    double passed = std::ceil((double(t) + 0.5) / (step_epochs * double(updates))) - 1;  // multiples of step_epochs reached()
    return float(base * std::pow(double(gamma), passed));
  }
  if (name == "multi-step") {
    auto passed = std::count_if(milestones.begin(), milestones.end(), [&](double epoch) { return reached(t, epoch, updates); });
    return float(base * std::pow(double(gamma), double(passed)));
  }
  const double end = epochs * double(updates);
  const double progress = double(t) < end ? std::clamp((double(t) - warmup) / (end - warmup), 0.0, 1.0) : 1;
  if (name == "cosine") return float(final_rate + (base - final_rate) * (1 + std::cos(std::numbers::pi * progress)) / 2);
  if (name == "polynomial") return float(final_rate + (base - final_rate) * std::pow(1 - progress, double(power)));
  return rate;
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
  const auto known = schedule_names();
  if (std::find(known.begin(), known.end(), name) == known.end()) require(false, unknown_name("learning-rate schedule", name, known));
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
  require((name != "cosine" && name != "polynomial") || !(warmup_epochs >= epochs), "the warm-up lasts " + std::to_string(warmup_epochs) +
                                                                                        " of " + std::to_string(epochs) + " epochs: the " +
                                                                                        name + " schedule needs it to be shorter");
  if (!mistakes.empty()) throw UsageError(mistakes);
}

}  // namespace pipecast
