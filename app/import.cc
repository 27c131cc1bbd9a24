// A safetensors file of torchvision's tensors, checked against a model and written as a weights file that names its model.
#include <iostream>

#include "app/commands.h"
#include "app/output_file.h"
#include "app/weights_file.h"

namespace pipecast {
namespace {

class ImportCommand : public Command {
 public:
  ImportCommand()
      : Command("import", "Check a safetensors file (torchvision's names) against a model and keep it as a weights file",
                "  pipecast import --model resnet18 --classes 1000 --weights torchvision.safetensors --out resnet18.safetensors\n"
                "  pipecast eval --weights resnet18.safetensors --data ...      the file now names its model\n"
                "  pipecast train --weights resnet18.safetensors --data ...     training starts from it") {}

  void declare(Options& o) override {
    o.text("model", model_, "NAME", "the model that the weights are of: " + list_names(model_entries()));
    o.number("classes", classes_, "N", "classes of the model", 2, most_classes);
    o.text("weights", weights_, "FILE", "safetensors file to read");
    o.flag("allow-bad-values", allow_bad_values_, bad_values_help);
    o.text("out", out_, "FILE", "safetensors file to write");
  }

  void run(const Options& options) override {
    Mistakes mistakes;
    if (weights_.empty()) mistakes.add("import needs a file to read; give --weights FILE.safetensors");
    if (out_.empty()) mistakes.add("import needs a file to write; give --out FILE.safetensors");
    else mistakes.check([&] { check_output_file("out", out_, {weights_}); });
    NamedWeights named;
    mistakes.check([&] {
      if (!weights_.empty()) named = read_weights(weights_, model_, options.given("classes") ? classes_ : 0, bad_values(allow_bad_values_));
    });
    mistakes.report();
    write_weights(out_, named);
    std::cout << out_ << ": " << named.model << ", " << named.options.classes << " classes, weights sha256 "
              << weights_digest(named.weights) << "\n";
  }

 private:
  std::string model_, weights_, out_;
  int64_t classes_ = ModelOptions().classes;
  bool allow_bad_values_ = false;
};

}  // namespace

std::unique_ptr<Command> import_command() { return std::make_unique<ImportCommand>(); }

}  // namespace pipecast
