// Trains a model on a pipeline and leaves a run's folder. Everything that can be wrong with the input is found before the folder
// is made.
#include <iostream>
#include <optional>

#include "app/commands.h"
#include "app/training.h"

namespace pipecast {
namespace {

class TrainCommand : public Command {
 public:
  TrainCommand()
      : Command("train", "Train a model on a pipeline and leave a run's folder",
                "  pipecast train --data generated --stages 4\n"
                "  pipecast train --data cifar10:DIR --stages 4 --method pipeoptim --epochs 100 --augment crop,flip --out runs/first\n"
                "  pipecast train --config runs/first/config --seed 2 --out runs/second") {}

  void declare(Options& o) override {
    options_.declare(o);
    o.text("out", out_, "RUN", "the run's folder; by default runs/MODEL-METHOD-SEED");
    o.not_in_config();
    o.flag("overwrite", overwrite_, "replace an earlier run in that folder");
    o.not_in_config();
  }

  void run(const Options& options) override {
    if (out_.empty()) out_ = "runs/" + options_.model + "-" + options_.trainer.method + "-" + std::to_string(options_.trainer.seed);
    const RunFolder folder(out_);
    std::optional<Training> training;
    Mistakes mistakes;
    mistakes.check([&] { folder.check_free(overwrite_); });
    mistakes.check([&] { training.emplace(options_); });
    mistakes.report();
    const RunResult result = training->run(folder, run_configuration(options));
    std::cout << format("\ntest accuracy %.2f %% after %lld epochs in %.0f s\n", 100 * result.test_accuracy, (long long)(options_.epochs),
                        result.seconds)
              << "files in " << folder.path() << ": report.html (open it), metrics.jsonl, weights.safetensors, config\nweights sha256 "
              << result.digest << std::endl;
  }

 private:
  TrainingOptions options_;
  std::string out_;
  bool overwrite_ = false;
};

}  // namespace

std::unique_ptr<Command> train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace pipecast
