// Weights as a safetensors file with torchvision's names: a new model's, or a run's.
#include <iostream>

#include "app/commands.h"
#include "app/output_file.h"
#include "app/weights_file.h"
#include "pipeline/train/run_folder.h"

namespace pipecast {
namespace {

class ExportCommand : public Command {
 public:
  ExportCommand()
      : Command("export", "Write a run's weights, or a model's initial ones, as safetensors with torchvision's names",
                "  pipecast export --run runs/resnet20-pipeoptim-1 --out resnet20.safetensors\n"
                "  pipecast export --model resnet18 --classes 1000 --seed 1 --out initial.safetensors") {}

  void declare(Options& o) override {
    o.text("run", run_, "RUN", "folder of a finished run");
    o.text("model", model_, "NAME", "instead of --run, initial weights of: " + list_names(model_entries()));
    o.number("seed", seed_, "N", "seed of the initial weights", 0, most_seed);
    o.number("classes", classes_, "N", "classes of the model", 2, most_classes);
    o.flag("allow-bad-values", allow_bad_values_, bad_values_help);
    o.text("out", out_, "FILE", "safetensors file to write");
  }

  void run(const Options& options) override {
    Mistakes mistakes;
    if (out_.empty()) mistakes.add("export needs a file to write; give --out FILE.safetensors");
    else mistakes.check([&] { check_output_file("out", out_, {}); });
    if (run_.empty() == model_.empty()) mistakes.add("export needs either --run RUN or --model NAME");
    if (!run_.empty() && (options.given("seed") || options.given("classes")))
      mistakes.add("options --seed and --classes belong to --model; leave them out with --run");
    mistakes.report();
    const NamedWeights named = run_.empty() ? initial() : of_run();
    write_weights(out_, named);
    std::cout << out_ << ": " << named.model << ", " << named.options.classes << " classes, weights sha256 "
              << weights_digest(named.weights) << "\n";
  }

 private:
  NamedWeights initial() const {
    const ModelOptions options{.classes = classes_, .vocabulary = model_entry(model_).vocabulary};
    return {model_, options, initial_weights(make_model(model_, options), seed_)};
  }

  NamedWeights of_run() const {
    const RunFolder folder(run_);
    folder.check_finished();
    return read_weights(folder.weights(), "", 0, bad_values(allow_bad_values_));
  }

  std::string run_, model_, out_;
  uint64_t seed_ = 1;
  int64_t classes_ = 10;
  bool allow_bad_values_ = false;
};

}  // namespace

std::unique_ptr<Command> export_command() { return std::make_unique<ExportCommand>(); }

}  // namespace pipecast
