#include "app/unread_options.h"

#include <algorithm>
#include <span>

namespace pipecast {
namespace {

using Names = std::vector<std::string>;

bool holds(const Names& names, const std::string& name) { return std::ranges::find(names, name) != names.end(); }

const Names own_optimizers = {"sgd", "adam", "adamw", "nadam", "rmsprop", "muon"};
const Names own_schedules = {"constant", "step", "multi-step", "cosine", "polynomial", "inverse-sqrt"};

// An option of some optimizers, or of some schedules.
struct Readers {
  const char* option;
  Names names;
};
const Readers of_optimizers[] = {{"momentum", {"sgd", "rmsprop", "muon"}},
                                 {"dampening", {"sgd"}},
                                 {"nesterov", {"sgd"}},
                                 {"beta1", {"adam", "adamw", "nadam", "muon"}},
                                 {"beta2", {"adam", "adamw", "nadam", "muon"}},
                                 {"epsilon", {"adam", "adamw", "nadam", "rmsprop", "muon"}},
                                 {"momentum-decay", {"nadam"}},
                                 {"alpha", {"rmsprop"}}};
const Readers of_schedules[] = {{"lr-step-epochs", {"step"}},
                                {"lr-milestones", {"multi-step"}},
                                {"lr-gamma", {"step", "multi-step"}},
                                {"lr-power", {"polynomial"}},
                                {"lr-final", {"cosine", "polynomial"}}};

// With enough stages and mini-batches for whatever the method does.
std::vector<Program> example(const std::string& method, int64_t rescale) {
  return make_programs(find_method(method), {.stages = 4, .minibatches = 8, .micro_batches = 4, .rescale = rescale});
}

bool any_predicts(const std::vector<Program>& programs) { return std::ranges::any_of(programs, predicts); }

}  // namespace

std::vector<UnreadOption> unread_options(const Options& options, const TrainingOptions& resolved) {
  TrainingOptions initial;
  Options defaults;
  initial.declare(defaults);
  std::vector<UnreadOption> unread;
  const auto add = [&](const std::string& option, const std::string& who, const std::string& readers) {
    if (options.entry(option).get() != defaults.entry(option).get())
      unread.push_back({option, "option --" + option + " has no effect with " + who + ", only with " + readers + ": leave it out"});
  };
  const auto add_all = [&](std::span<const Readers> table, const Names& own, const std::string& kind, const std::string& chosen) {
    for (const auto& [option, readers] : table)
      if (holds(own, chosen) && !holds(readers, chosen)) add(option, kind + " " + chosen, list(readers));
  };
  const TrainerOptions& trainer = resolved.trainer;
  add_all(of_optimizers, own_optimizers, "optimizer", trainer.optimizer.name);
  add_all(of_schedules, own_schedules, "schedule", trainer.schedule.name);
  if (trainer.optimizer.weight_decay == 0) add("no-decay", "a weight decay of 0", "another");
  const bool has_file = !trainer.programs.empty();
  const std::string who = has_file ? "this program file" : "method " + trainer.method;
  if (!any_predicts(has_file ? trainer.programs : example(trainer.method, 0))) add("lookahead", who, "methods that predict");
  if (has_file || example(trainer.method, 0) == example(trainer.method, 4)) add("rescale-epochs", who, "pipemare");
  return unread;
}

void check_all_read(const Options& options, const TrainingOptions& resolved) {
  Mistakes mistakes;
  for (const UnreadOption& option : unread_options(options, resolved)) mistakes.add(option.sentence);
  mistakes.report();
}

}  // namespace pipecast
