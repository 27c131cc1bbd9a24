// Throughput, bubble and memory of a pipeline, computed without running it.
#include "pipeline/plan/simulate.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/plan_options.h"
#include "engine/files/durable_file.h"
#include "pipeline/limits.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

class SimulateCommand : public Command {
 public:
  SimulateCommand()
      : Command("simulate", "Simulate a pipeline: throughput, bubble and memory from measured or given costs",
                "  pipecast simulate --model resnet20 --stages 2 --method pipeoptim\n"
                "  pipecast simulate --costs costs.json --bytes-per-second 1e9 --latency 5e-6\n"
                "  pipecast simulate --uniform --stages 1024 --method pipeoptim --minibatches 512") {}

  void declare(Options& o) override {
    choice_.declare(o);
    o.group("Simulation");
    o.number("minibatches", minibatches_, "N", "mini-batches to simulate, with the fill and the drain of the pipeline", 1, most_minibatches);
    o.text("costs", costs_, "FILE", "output of pipecast plan --json: the run and its costs, in place of the options of model, pipeline and machine");
    o.flag("uniform", uniform_, "use no model; all stages have equal costs");
    o.number("forward-seconds", forward_, "S", "with --uniform: seconds of a stage's forward of one micro-batch", 0, most_seconds);
    o.number("backward-seconds", backward_, "S", "with --uniform: seconds of a stage's backward of one micro-batch", 0, most_seconds);
    o.number("message-bytes", message_bytes_, "N", "with --uniform: bytes of every message", 0, most_cost_bytes);
    o.number("latency", latency_, "S", "latency of a link in seconds, added to the time that a message's bytes take", 0, most_seconds);
    o.number("bytes-per-second", bytes_per_second_, "B", "bandwidth of each channel between two stages; 0: infinite", 0, 1e18);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
    o.flag("passes", passes_wanted_, "with --json: print the begin and the end of every pass as well");
    o.not_in_config();
  }

  void run(const Options& options) override {
    choice_.resolve();
    if (passes_wanted_ && !json_) throw UsageError("--passes needs --json");
    SimulatedRun run = chosen_run(options);
    run.setting.minibatches = minibatches_;
    run.costs.link.latency = latency_, run.costs.link.bytes_per_second = bytes_per_second_;
    std::vector<SimulatedPass> passes;
    const std::vector<Program> programs = make_programs(find_method(run.method), run.setting);
    const Simulation simulation = simulate(programs, run.costs, passes_wanted_ ? &passes : nullptr);
    std::cout << (json_ ? json(run, simulation, passes) + "\n" : table(run, simulation)) << std::flush;
  }

 private:
  static constexpr std::initializer_list<const char*> of_a_model = {"model",     "samples",  "image",     "length",    "vocabulary",
                                                                    "classes",   "optimizer", "momentum", "partition", "cut-layers"};
  static void leave_out(const Options& options, const std::string& why, std::initializer_list<const char*> names) {
    for (const char* name : names)
      if (options.given(name)) throw UsageError(why + ": leave --" + name + " out");
  }

  SimulatedRun chosen_run(const Options& options) {
    if (!costs_.empty()) {
      leave_out(options, "--costs '" + costs_ + "' defines the run",
                {"uniform", "forward-seconds", "backward-seconds", "message-bytes", "batch", "stages", "method", "lookahead", "micro-batches",
                 "chunks", "recompute", "device", "math", "threads"});
      leave_out(options, "--costs '" + costs_ + "' defines the run", of_a_model);
      return read_plan(text_of(read_file_or_pipe(costs_, 64 << 20)));
    }
    if (!uniform_) {
      for (const char* name : {"forward-seconds", "backward-seconds", "message-bytes"})
        if (options.given(name)) throw UsageError(std::string("--") + name + " needs --uniform");
      return choice_.plan().run;
    }
    leave_out(options, "--uniform has no model", of_a_model);
    const TrainerOptions& o = choice_.trainer;
    SimulatedRun run{"", o.method, {.stages = o.stages, .minibatches = 1, .micro_batches = o.micro_batches}, o.batch, {}};
    run.setting.look_ahead = o.look_ahead, run.setting.recompute = o.recompute;
    run.setting.chunks = chunks_of(find_method(o.method), o.chunks);
    run.costs = uniform_costs(o.stages, run.setting.chunks, forward_, backward_, message_bytes_);
    return run;
  }

  static std::string table(const SimulatedRun& run, const Simulation& simulation) {
    std::string text = format("%s%s on %d stages, batch %lld", run.model.empty() ? "" : (run.model + ", ").c_str(), run.method.c_str(),
                              run.setting.stages, (long long)(run.batch));
    if (run.setting.micro_batches > 1) text += format(" in %d micro-batches", run.setting.micro_batches);
    text += format(", %lld mini-batches\n", (long long)(run.setting.minibatches)) +
            format("%.6g s in total; %.6g s per mini-batch once the pipeline is full, %.6g samples/s; bubble %.2f %%\n\n",
                   simulation.seconds, simulation.step_seconds, images_per_second(run, simulation), 100 * simulation.bubble_share);
    const bool memory = !run.model.empty();  // uniform costs have no sizes of memory
    if (memory) text += "                                                   MiB\n";
    text += "stage    busy  copies  frames";
    text += memory ? "  weights  gradient    state     frames    arena      total\n" : "\n";
    auto mebibytes = [](int64_t bytes) { return double(bytes) / (1 << 20); };
    for (size_t k = 0; k < simulation.stages.size(); ++k) {
      const SimulatedStage& s = simulation.stages[k];
      text += format("%5zu %5.1f %%  %6d  %6d", k, 100 * busy_share(s, simulation), s.copies, s.frames);
      if (memory)
        text += format(" %8.1f  %8.1f %8.1f %10.1f %8.1f %10.1f", mebibytes(s.weight_bytes), mebibytes(s.gradient_bytes),
                       mebibytes(s.state_bytes), mebibytes(s.frame_bytes), mebibytes(s.arena_bytes), mebibytes(s.bytes()));
      text += "\n";
    }
    return text;
  }

  static std::string json(const SimulatedRun& run, const Simulation& simulation, const std::vector<SimulatedPass>& passes) {
    Json json = {{"model", run.model},
                 {"method", run.method},
                 {"stages", run.setting.stages},
                 {"minibatches", run.setting.minibatches},
                 {"micro_batches", run.setting.micro_batches},
                 {"batch", run.batch},
                 {"seconds", simulation.seconds},
                 {"step_seconds", simulation.step_seconds},
                 {"images_per_second", images_per_second(run, simulation)},
                 {"bubble_share", simulation.bubble_share},
                 {"stage_results", Json::array()}};
    for (const SimulatedStage& s : simulation.stages) {
      Json row = {{"busy_share", busy_share(s, simulation)}, {"copies", s.copies}, {"frames", s.frames}, {"inputs", s.inputs}};
      if (!run.model.empty())
        row.update({{"weight_bytes", s.weight_bytes},
                    {"gradient_bytes", s.gradient_bytes},
                    {"state_bytes", s.state_bytes},
                    {"frame_bytes", s.frame_bytes},
                    {"arena_bytes", s.arena_bytes}});
      json["stage_results"].push_back(std::move(row));
    }
    for (const SimulatedPass& pass : passes)
      json["passes"].push_back({{"stage", pass.stage},
                                {"minibatch", pass.tag.minibatch},
                                {"micro", pass.tag.micro},
                                {"chunk", pass.tag.chunk},
                                {"pass", to_string(pass.operation)},
                                {"begin", pass.begin},
                                {"end", pass.end}});
    return json.dump();
  }

  static double images_per_second(const SimulatedRun& run, const Simulation& simulation) {
    return simulation.step_seconds > 0 ? double(run.batch) / simulation.step_seconds : 0;
  }
  static double busy_share(const SimulatedStage& stage, const Simulation& simulation) {
    return simulation.seconds > 0 ? stage.busy_seconds / simulation.seconds : 0;
  }

  PlanOptions choice_;
  int64_t minibatches_ = 64, message_bytes_ = 0;
  double forward_ = 1, backward_ = 2, latency_ = 0, bytes_per_second_ = 0;
  std::string costs_;
  bool uniform_ = false, json_ = false, passes_wanted_ = false;
};

}  // namespace

std::unique_ptr<Command> simulate_command() { return std::make_unique<SimulateCommand>(); }

}  // namespace pipecast
