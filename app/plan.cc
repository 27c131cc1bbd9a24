// What a run will take: parts, partition, memory and time per stage, before anything is trained.
#include "pipeline/measure/plan.h"

#include <iostream>

#include "app/commands.h"
#include "app/plan_options.h"

namespace pipecast {
namespace {

double mebibytes(int64_t floats) { return double(floats) * sizeof(float) / (1 << 20); }

std::string timed_parts(const Plan& plan) {
  std::string text =
      "milliseconds of a pass                      backward   of a mini-batch\n"
      "part                   forward     whole     input   weights    update  parameters  border MiB\n";
  for (const PlannedPart& part : plan.parts) {
    const PartSeconds& s = part.seconds;
    text += format("%-20s %9.3f %9.3f", part.name.c_str(), s.forward * 1e3, s.backward * 1e3);
    text += s.input_half > 0 ? format(" %9.3f %9.3f", s.input_half * 1e3, s.weight_half * 1e3) : std::string(20, ' ');
    text += format(" %9.3f  %10lld  %10.2f\n", part.update * 1e3, (long long)(part.parameters), double(part.border_bytes) / (1 << 20));
  }
  auto efficiency = [&](double seconds) { return seconds > 0 ? 100 * plan.perfect / seconds : 100.0; };
  std::string best;
  for (int count : plan.best_partition) best += (best.empty() ? "" : ",") + std::to_string(count);
  text += format("\na mini-batch takes the slowest stage %.2f ms, and %.2f ms with the best partition of these parts, %s\n",
                 plan.slowest * 1e3, plan.best * 1e3, best.c_str());
  text += format("divided equally it would take %.2f ms: this partition permits %.0f %% of that speed, the best one %.0f %%\n\n",
                 plan.perfect * 1e3, efficiency(plan.slowest), efficiency(plan.best));
  return text;
}

std::string untimed_parts(const Plan& plan) {
  std::string text = "part                  parameters  border MiB of a pass\n";
  for (const PlannedPart& part : plan.parts)
    text += format("%-20s  %10lld  %20.2f\n", part.name.c_str(), (long long)(part.parameters), double(part.border_bytes) / (1 << 20));
  return text + "\n";
}

std::string stage_row(const Plan& plan, size_t k) {
  const PlannedStage& stage = plan.stages[k];
  const Stage::MemoryUse& m = stage.memory;
  std::string parts;
  for (const auto& [first, count] : stage.parts) {
    parts += (parts.empty() ? "" : "; ") + plan.parts[size_t(first)].name;
    if (count > 1) parts += " to " + plan.parts[size_t(first + count - 1)].name;
  }
  std::string row =
      format("%5zu  %-28s %10lld  %6d  %6d %8.1f  %8.1f %7.1f %8.1f %8.1f %9.1f %8.1f", k, parts.c_str(), (long long)(stage.parameters),
             stage.copies, stage.frames, mebibytes(m.weights + m.stash), mebibytes(m.gradient), mebibytes(m.state), mebibytes(m.frames),
             mebibytes(m.arena), mebibytes(m.weights + m.stash + m.gradient + m.state + m.frames + m.arena), mebibytes(stage.links));
  if (plan.timed) row += format("  %15.2f", stage.seconds * 1e3);
  return row + "\n";
}

std::string table(const Plan& plan) {
  const Setting& setting = plan.run.setting;
  std::string text = format("%s, %s on %d stages, batch %lld", plan.run.model.c_str(), plan.run.method.c_str(), setting.stages,
                            (long long)(plan.run.batch));
  if (setting.micro_batches > 1) text += format(" in %d micro-batches", setting.micro_batches);
  text += "\n\n" + (plan.timed ? timed_parts(plan) : untimed_parts(plan));
  text +=
      "                                                                     MiB\n"
      "stage  parts                        parameters  copies  frames  weights  gradient   state   frames    arena     total"
      "    links";
  text += plan.timed ? "  ms a mini-batch\n" : "\n";
  for (size_t k = 0; k < plan.stages.size(); ++k) text += stage_row(plan, k);
  for (const SkipCosts& s : plan.run.costs.skips)
    text += format("\n%.2f MiB of a pass go from stage %d directly to stage %d, and %.2f MiB of gradients back\n",
                   double(s.activation_bytes) / (1 << 20), s.skip.from % setting.stages, s.skip.to % setting.stages,
                   double(s.gradient_bytes) / (1 << 20));
  text += format("\nin all %.1f MiB, with %.1f MiB of samples read ahead\n", mebibytes(plan.memory()), mebibytes(plan.loader));
  return text;
}

class PlanCommand : public Command {
 public:
  PlanCommand()
      : Command("plan", "Show what a run will take before it: times of the parts, partition, memory and time per stage",
                "  pipecast plan --model resnet20 --batch 128 --image 32 --stages 4 --method pipeoptim\n"
                "  pipecast plan --model resnet50 --image 64 --stages 8 --partition measured --json > costs.json\n"
                "  pipecast plan --model amoebanet_d_72x512 --image 224 --classes 1000 --stages 8 --memory-only") {}

  void declare(Options& o) override {
    choice_.declare(o);
    o.flag("memory-only", memory_only_, "no times: nothing is measured or allocated, so that the model may be larger than this machine");
    o.flag("json", json_, "print JSON, which pipecast simulate --costs reads");
    o.not_in_config();
  }

  void run(const Options&) override {
    choice_.resolve();
    const Plan plan = choice_.plan(memory_only_);
    std::cout << (json_ ? plan_json(plan) + "\n" : table(plan)) << std::flush;
  }

 private:
  PlanOptions choice_;
  bool json_ = false, memory_only_ = false;
};

}  // namespace

std::unique_ptr<Command> plan_command() { return std::make_unique<PlanCommand>(); }

}  // namespace pipecast
