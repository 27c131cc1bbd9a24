// Accuracy and loss of a run's weights, or of a weights file, on the test pictures of a data set.
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/class_results.h"
#include "app/commands.h"
#include "app/config_file.h"
#include "app/output_file.h"
#include "app/training_options.h"
#include "engine/files/safetensors.h"
#include "pipeline/limits.h"
#include "pipeline/train/run_folder.h"
#include "pipeline/train/trainer.h"

namespace pipecast {
namespace {

// Logits and labels of the samples, or of their pixels, in the order in which they were evaluated.
void write_logits(const std::string& path, const std::vector<float>& logits, const Batches& batches) {
  const std::vector<int32_t> of_batches = labels_of(batches);
  const std::vector<int64_t> labels(of_batches.begin(), of_batches.end());
  const int64_t n = int64_t(labels.size());
  SafeTensors file;
  file.tensors["logits"] = FileTensor::f32({n, int64_t(logits.size()) / n}, logits.data());
  file.tensors["labels"] = FileTensor::i64({n}, labels.data());
  write_safetensors(path, file);
}

class EvalCommand : public Command {
 public:
  EvalCommand()
      : Command("eval", "Test a run's weights, or a weights file, on a data set's test pictures",
                "  pipecast eval --run runs/resnet20-pipeoptim-1\n"
                "  pipecast eval --weights resnet20.safetensors --data cifar10:DIR --logits logits.safetensors --json") {
    trainer_.method = methods().front().name;
  }

  void declare(Options& o) override {
    o.text("run", run_, "RUN", "folder of a finished run; its data set is the default for --data");
    o.text("weights", weights_, "FILE", "instead of --run, a safetensors file");
    o.text("model", model_, "NAME", "model of --weights, where the file does not say it");
    o.flag("allow-bad-values", allow_bad_values_, bad_values_help);
    o.text("data", data_, "FORMAT:DIR", "data set: " + list_names(dataset_formats()));
    o.text("bad-samples", bad_samples_, "WHAT", "fail or skip damaged samples; unless given: as the run did, else fail");
    o.text("orientation", orientation_, "WHAT", "ignore or apply the orientation in EXIF data; unless given: as the run did, else ignore");
    o.number("image-size", image_size_, "PIXELS", std::string(image_size_help) + "; unless given: as the run did", 0, most_image_size);
    o.number("resize", resize_, "PIXELS", std::string(resize_help) + "; unless given: as the run did", 0, most_resize);
    o.number("cache", cache_, "MEBIBYTES", cache_help, 0, most_cache);
    o.number("batch", trainer_.batch, "N", "images at a time; sets time and memory, and may change the last digits", 1, most_batch);
    o.text("logits", logits_, "FILE", "write the logits and labels as safetensors");
    o.text("device", trainer_.device, "NAME", "cpu or cuda");
    o.number("threads", trainer_.threads, "N", "threads on the host; 0: all", 0, most_threads);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    Mistakes mistakes;
    if (run_.empty() == weights_.empty()) mistakes.add("eval needs either --run RUN or --weights FILE");
    else if (!run_.empty()) mistakes.check([&] { read_run(); });
    Dataset dataset;
    NamedWeights named;
    mistakes.report();
    if (!logits_.empty()) mistakes.check([&] { check_output_file("logits", logits_, {weights_}); });
    if (bad_samples_.empty()) bad_samples_ = "fail";
    if (orientation_.empty()) orientation_ = "ignore";
    if (data_.empty()) mistakes.add("eval needs a data set; give --data, for example --data cifar10:DIR");
    const auto load = [&] {
      return load_dataset(data_, {.bad_samples = bad_samples_mode(bad_samples_),
                                  .orientation = orientation_mode(orientation_),
                                  .image_size = image_size_,
                                  .resize = resize_,
                                  .cache = cache_ << 20});
    };
    if (!data_.empty()) mistakes.check([&] { dataset = load(); });
    if (!weights_.empty()) mistakes.check([&] { named = read_weights(weights_, model_, dataset.classes, bad_values(allow_bad_values_)); });
    mistakes.report();
    check_tokens(named, dataset);
    named.options.image = model_options_of(dataset).image;
    Graph graph = make_model(named.model, named.options);
    check_columns(graph, dataset);
    const Batches batches(dataset.test, {.batch = trainer_.batch});
    trainer_.threads = threads_asked_for(trainer_.threads);
    Trainer trainer(std::move(graph), trainer_, batches.shapes());
    trainer.set_weights(named.weights);

    std::vector<float> logits;
    std::optional<Classification> classes;
    if (classifies(trainer.graph(), batches)) classes.emplace(batches);
    const Outcome outcome = trainer.evaluate(batches, [&](const Tensor& of_pass) {
      if (classes) classes->add(of_pass);
      if (!logits_.empty()) logits.insert(logits.end(), of_pass.as<float>(), of_pass.as<float>() + of_pass.shape.count());
    });
    if (!logits_.empty()) write_logits(logits_, logits, batches);
    const std::optional<double> perplexity_of_all = perplexity(trainer.graph(), outcome.loss);
    if (json_) {
      nlohmann::ordered_json json = {
          {"model", named.model},
          {"data", data_},
          {"data_notes", dataset.notes},
          {"images", outcome.samples},
          {"test_loss", outcome.loss},
          {"test_accuracy", outcome.accuracy},
          {"test_perplexity", perplexity_of_all ? nlohmann::ordered_json(*perplexity_of_all) : nlohmann::ordered_json()},
          {"images_per_second", double(outcome.samples) / outcome.seconds},
          {"weights_digest", weights_digest(named.weights)}};
      if (classes) json.update(class_results(*classes, dataset.class_names));
      std::cout << json.dump() << "\n";
      return;
    }
    std::cout << left_out_of(dataset)
              << format("%s on %s, %lld test samples: accuracy %.2f %%, ", named.model.c_str(), data_.c_str(), (long long)(outcome.samples),
                        100 * outcome.accuracy)
              << (classes && classes->classes() > 5 ? format("among the top 5 %.2f %%, ", 100 * classes->top5()) : "")
              << (classes ? format("Matthews correlation %.4f, ", classes->matthews_correlation()) : "")
              << (perplexity_of_all ? "perplexity " + decimal(*perplexity_of_all, 2) + ", " : "")
              << format("loss %s\n", decimal(outcome.loss, 4).c_str());
  }

 private:
  void read_run() {
    const RunFolder folder(run_);
    folder.check_finished();
    weights_ = folder.weights();
    for (const ConfigLine& line : read_config(folder.config())) {
      if (line.name == "data" && data_.empty()) data_ = line.value;
      if (line.name == "bad-samples" && bad_samples_.empty()) bad_samples_ = line.value;
      if (line.name == "orientation" && orientation_.empty()) orientation_ = line.value;
      if (line.name == "image-size" && image_size_ == 0) image_size_ = std::stoll(line.value);
      if (line.name == "resize" && resize_ == 0) resize_ = std::stoll(line.value);
    }
  }

  std::string run_, weights_, model_, data_, bad_samples_, orientation_, logits_;
  int64_t image_size_ = 0, resize_ = 0, cache_ = DataOptions{}.cache >> 20;
  TrainerOptions trainer_;
  bool allow_bad_values_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace pipecast
