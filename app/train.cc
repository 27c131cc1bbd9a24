// Trains a model on a pipeline and leaves a run's folder. Everything that can be wrong with the input is found before the folder
// is made.
#include <iostream>
#include <optional>

#include "app/commands.h"
#include "app/config_file.h"
#include "app/output_file.h"
#include "app/signals.h"
#include "app/training.h"
#include "app/unread_options.h"
#include "pipeline/limits.h"
#include "pipeline/train/checkpoints.h"

namespace pipecast {
namespace {

class TrainCommand : public Command {
 public:
  TrainCommand()
      : Command(
            "train", "Train a model on a pipeline and leave a run's folder",
            "  pipecast train --data generated --stages 4\n"
            "  pipecast train --data cifar10:DIR --stages 4 --method pipeoptim --epochs 100 --augment crop,flip --out runs/first\n"
            "  pipecast train --config runs/first/config --seed 2 --out runs/second\n"
            "  pipecast train --weights resnet18.safetensors --model resnet18 --data folder:DIR --freeze conv1,bn1,layer1 --head-lr 10\n"
            "  pipecast train --resume runs/first") {}

  void declare(Options& o) override {
    options_.declare(o);
    o.text("out", out_, "RUN", "the run's folder; by default runs/MODEL-METHOD-SEED");
    o.not_in_config();
    o.flag("overwrite", overwrite_, "replace an earlier run in that folder");
    o.not_in_config();
    o.text("resume", resume_, "RUN", "go on with the run in that folder from its last checkpoint, with its options");
    o.not_in_config();
    o.number("trace", options_.run.trace, "N", "timeline of the first N mini-batches for Perfetto: trace.json (GPU: when the host issues work)",
             0, most_minibatches);
    o.not_in_config();
  }

  void run(const Options& options) override {
    const bool resumes = options.given("resume");
    if (out_.empty()) out_ = "runs/" + options_.model + "-" + options_.trainer.method + "-" + std::to_string(options_.trainer.seed);
    const RunFolder folder(resumes ? resume_ : out_);
    const RunResult result = resumes ? resume(folder, options) : begin(folder, options);
    std::cout << (result.epochs_done < double(options_.run.epochs)
                      ? format("\nended early: no better test accuracy in the last %lld epochs\n", (long long)(options_.run.patience))
                      : "\n")
              << format("test accuracy %.2f %% after %g epochs in %.0f s\n", 100 * result.test_accuracy, result.epochs_done, result.seconds)
              << "files in " << folder.path()
              << ": report.html (open it), metrics.jsonl, weights.safetensors, weights-best.safetensors, config"
              << (options_.run.trace > 0 ? ", trace.json (open it in ui.perfetto.dev)" : "") << "\nweights sha256 " << result.digest
              << std::endl;
  }

 private:
  RunResult begin(const RunFolder& folder, const Options& options) {
    std::optional<Training> training;
    Mistakes mistakes;
    mistakes.check([&] { folder.check_free(overwrite_); });
    mistakes.check([&] { check_input_file("weights", options_.weights, folder); });
    mistakes.check([&] { check_input_file("program", options_.program, folder); });
    mistakes.check([&] {
      training.emplace(options_);
      check_all_read(options, options_);
    });
    mistakes.report();
    catch_signals();
    return training->run(folder, options);
  }

  RunResult resume(const RunFolder& folder, const Options& options) {
    Mistakes mistakes;
    for (const char* option : {"out", "overwrite", "config"})
      if (options.given(option))
        mistakes.add("option --" + std::string(option) + " does not go with --resume, which goes on in the run's own folder: leave it out");
    mistakes.report();
    folder.check_resumable();
    read_run_options(folder, options);
    if (const RunResult before = run_result(folder.metrics()); before.done && double(options_.run.epochs) <= before.epochs_done)
      throw UsageError(format("run '%s' is done, with a test accuracy of %.2f %%; to train it further, give --epochs above %g",
                              folder.path().c_str(), 100 * before.test_accuracy, before.epochs_done));
    if (CheckpointStore(folder.checkpoints()).complete().empty())
      throw UsageError("run '" + folder.path() + "' has no complete checkpoint: begin it again with 'pipecast train --config " +
                       folder.config() + " --out " + folder.path() + " --overwrite'");
    const Checkpoint checkpoint = newest_checkpoint(folder.checkpoints(), [](const std::string& damage) {
      std::cerr << "pipecast: " << damage << "\npipecast: so the run goes on from the checkpoint before it" << std::endl;
    });
    Training training(options_, true);
    catch_signals();
    return training.resume(folder, options, checkpoint);
  }

  // The options that the command line leaves to the run.
  void read_run_options(const RunFolder& folder, const Options& options) {
    Mistakes mistakes;
    const bool cut_otherwise = options.given("stages") || options.given("cut-layers") || options.given("chunks");
    for (const ConfigLine& line : read_config(folder.config())) {
      bool found = false;
      for (const Options::Entry& entry : options.entries()) {
        if (entry.name != line.name || !entry.in_config) continue;
        found = true;
        // A list of parts is for as many stages as it has numbers.
        const bool outdated = entry.name == "partition" && cut_otherwise;
        if (!entry.given && !outdated) mistakes.check([&] { entry.set(line.value); });
      }
      if (!found) mistakes.add(line.place + ": option '" + line.name + "' is not known; resume with the version that began the run");
    }
    mistakes.report();
  }

  TrainingOptions options_;
  std::string out_, resume_;
  bool overwrite_ = false;
};

}  // namespace

std::unique_ptr<Command> train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace pipecast
