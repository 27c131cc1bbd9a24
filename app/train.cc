// Trains a model on a pipeline and leaves a run's folder. Everything that can be wrong with the input is found before the folder
// is made.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/commands.h"
#include "app/progress.h"
#include "app/report.h"
#include "app/run_folder.h"
#include "app/weights_file.h"
#include "pipeline/partition.h"
#include "pipeline/trainer.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double memory_mebibytes(const StageSummary& stage) {
  const Stage::MemoryUse& m = stage.memory;
  return double(m.weights + m.stash + m.gradient + m.state + m.frames + m.arena) * sizeof(float) / (1 << 20);
}

// metrics.jsonl, each line on the disk as soon as it is known.
class Metrics {
 public:
  explicit Metrics(const std::string& path) : path_(path), stream_(path) {}
  void write(Json line) {
    stream_ << line.dump() << std::endl;
    if (!stream_) throw Error("file '" + path_ + "' cannot be written; check the disk's free space and the folder's permissions");
    lines_.push_back(std::move(line));
  }
  const std::vector<Json>& lines() const { return lines_; }

 private:
  std::string path_;
  std::ofstream stream_;
  std::vector<Json> lines_;
};

// The run itself, from the first mini-batch to the last evaluation.
class Run {
 public:
  Run(Trainer& trainer, Batches train, Batches test, Metrics& metrics, int64_t epochs, int64_t log_every)
      : trainer_(trainer), train_(std::move(train)), test_(std::move(test)), metrics_(metrics), epochs_(epochs), log_every_(log_every) {}

  // Epochs [first, last) from a fill of the pipeline to its drain, then an evaluation.
  void train_and_evaluate(int64_t first, int64_t last) {
    const int64_t per_epoch = train_.per_epoch(), begin = first * per_epoch, end = last * per_epoch;
    samples_ = 0;
    step_ = epoch_ = {};
    epoch_start_ = Clock::now();
    const Outcome outcome = trainer_.train(train_, begin, end, [&](int64_t done) {
      const int64_t next = begin + done;
      samples_ += train_.size(next - 1);
      if (next % log_every_ == 0) log_step(next);
      if (next % per_epoch == 0 && next < end) end_epoch(next / per_epoch, epoch_row(next / per_epoch));
      if (progress_.due()) show_progress(next);
    });
    progress_.clear();
    Json row = epoch_row(last);
    row["train_accuracy"] = outcome.accuracy;
    for (const StageSummary& stage : trainer_.summaries())
      row["stages"].push_back({{"busy", stage.busy_share}, {"prediction_error", stage.prediction_error}});
    if (std::isfinite(outcome.loss)) {
      result = trainer_.evaluate(test_);
      row["test_loss"] = result.loss, row["test_accuracy"] = result.accuracy;
    }
    end_epoch(last, std::move(row));
    if (!std::isfinite(outcome.loss + result.loss))
      throw Error("the loss is no longer a number after epoch " + std::to_string(last) + ": lower --lr, or add --warmup-epochs");
  }

  Outcome result;  // of the last evaluation

 private:
  struct Mark {
    int64_t samples = 0;
    double loss = 0;  // summed
  };

  // The mean loss since a mark, which moves here.
  double loss_since(Mark& mark) {
    const Mark now{samples_, trainer_.mean_loss() * double(samples_)};
    const double loss = (now.loss - mark.loss) / double(now.samples - mark.samples);
    mark = now;
    return loss;
  }

  float rate(int64_t minibatch) const { return trainer_.options().schedule.at(minibatch, train_.per_epoch()); }

  // `minibatches`: done so far, counted over the whole run.
  void log_step(int64_t minibatches) {
    metrics_.write({{"event", "step"},
                    {"minibatch", minibatches},
                    {"epochs", double(minibatches) / double(train_.per_epoch())},
                    {"loss", loss_since(step_)},
                    {"learning_rate", rate(minibatches - 1)}});
  }

  Json epoch_row(int64_t epoch) {
    const double seconds = seconds_since(epoch_start_);
    const int64_t images = samples_ - epoch_.samples;
    epoch_start_ = Clock::now();
    images_per_second_ = double(images) / seconds;
    return {{"event", "epoch"},
            {"epoch", epoch},
            {"train_loss", loss_since(epoch_)},
            {"train_accuracy", nullptr},
            {"test_loss", nullptr},
            {"test_accuracy", nullptr},
            {"images_per_second", images_per_second_},
            {"learning_rate", rate(epoch * train_.per_epoch() - 1)},
            {"seconds", seconds},
            {"stages", Json::array()}};
  }

  void end_epoch(int64_t epoch, Json row) {
    progress_.clear();
    std::cout << format("epoch %3lld/%lld  train loss %.4f", (long long)(epoch), (long long)(epochs_), row["train_loss"].get<double>());
    if (row["test_loss"].is_number())
      std::cout << format("  test loss %.4f  test accuracy %6.2f %%", row["test_loss"].get<double>(),
                          100 * row["test_accuracy"].get<double>());
    std::cout << format("  %.0f images/s  learning rate %.4g", images_per_second_, row["learning_rate"].get<double>()) << std::endl;
    metrics_.write(std::move(row));
  }

  void show_progress(int64_t minibatches) {
    const int64_t per_epoch = train_.per_epoch(), epoch = (minibatches - 1) / per_epoch;
    const double speed = double(samples_ - epoch_.samples) / seconds_since(epoch_start_);
    const double left = double(epochs_ * per_epoch - minibatches) * double(train_.size(0)) / speed;
    progress_.show(format("epoch %lld/%lld  mini-batch %lld/%lld  loss %.4f  %.0f images/s  %lld:%02lld left", (long long)(epoch + 1),
                          (long long)(epochs_), (long long)(minibatches - epoch * per_epoch), (long long)(per_epoch), trainer_.mean_loss(),
                          speed, (long long)(left) / 60, (long long)(left) % 60));
  }

  Trainer& trainer_;
  Batches train_, test_;
  Metrics& metrics_;
  Progress progress_;
  int64_t epochs_, log_every_;
  int64_t samples_ = 0;  // since the pipeline was filled
  Mark step_, epoch_;    // at the last logged step and at the end of the last epoch
  Clock::time_point epoch_start_;
  double images_per_second_ = 0;  // of the last epoch
};

class TrainCommand : public Command {
 public:
  TrainCommand()
      : Command("train", "Train a model on a pipeline and leave a run's folder",
                "  pipecast train --data generated --stages 4\n"
                "  pipecast train --data cifar10:DIR --stages 4 --method pipeoptim --epochs 100 --augment crop,flip --out runs/first\n"
                "  pipecast train --config runs/first/config --seed 2 --out runs/second") {
    trainer_.optimizer.weight_decay = 5e-4f;
    trainer_.schedule.name = "cosine";
  }

  void declare(Options& o) override {
    OptimizerOptions& optimizer = trainer_.optimizer;
    Schedule& schedule = trainer_.schedule;
    o.group("Model and data");
    o.text("model", model_, "NAME", list_names(model_entries()));
    o.text("weights", weights_, "FILE", "start from these weights (safetensors), not from random ones");
    o.text("data", data_, "FORMAT:DIR", "cifar10:DIR, generated or generated:SIZE; see pipecast info");
    o.number("batch", trainer_.batch, "N", "images per mini-batch", int64_t(1));
    o.number("epochs", epochs_, "N", "passes over the training images", int64_t(1));
    o.text("augment", augment_, "LIST", "crop, flip, both as crop,flip, or none");
    o.flag("drop-last", drop_last_, "leave out an epoch's last mini-batch where it is short");
    o.number("label-smoothing", trainer_.label_smoothing, "SHARE", "share of the target spread over all classes", 0.f);
    o.group("Pipeline");
    o.number("stages", trainer_.stages, "N", "stages of the pipeline; 1 is plain training", 1);
    o.text("partition", partition_, "HOW", "balanced, measured, or the parts per stage as in 3,3,3,2");
    o.text("method", trainer_.method, "NAME", list_names(methods()));
    o.text("lookahead", look_ahead_, "MODE", "how far to predict: " + list(look_ahead_modes()));
    o.number("micro-batches", trainer_.micro_batches, "N", "micro-batches per mini-batch", 1);
    o.group("Optimizer");
    o.text("optimizer", optimizer.name, "NAME", list(optimizer_names()));
    o.number("lr", schedule.rate, "RATE", "learning rate");
    o.number("momentum", optimizer.momentum, "U", "sgd");
    o.number("dampening", optimizer.dampening, "D", "sgd: share of the gradient that momentum leaves out");
    o.flag("nesterov", optimizer.nesterov, "sgd: Nesterov momentum");
    o.number("weight-decay", optimizer.weight_decay, "C", "L2 for sgd and adam, decoupled for adamw");
    o.number("beta1", optimizer.beta1, "B", "adam, adamw: decay of the mean");
    o.number("beta2", optimizer.beta2, "B", "adam, adamw: decay of the mean square");
    o.number("epsilon", optimizer.epsilon, "E", "adam, adamw: added to the root of the mean square");
    o.group("Learning rate");
    o.text("lr-schedule", schedule.name, "NAME", list(schedule_names()));
    o.number("warmup-epochs", schedule.warmup_epochs, "N", "linear warm-up, may be a fraction");
    o.number("lr-step-epochs", schedule.step_epochs, "N", "step: epochs from one drop to the next");
    o.numbers("lr-milestones", schedule.milestones, "LIST", "multi-step: epochs at which the rate drops, as in 60,80");
    o.number("lr-gamma", schedule.gamma, "G", "step, multi-step: factor of a drop");
    o.number("lr-power", schedule.power, "P", "polynomial: the exponent");
    o.number("lr-final", schedule.final_rate, "RATE", "cosine, polynomial: rate at the end");
    o.group("Run");
    o.number("eval-every", eval_every_, "EPOCHS", "epochs from one evaluation to the next; the pipeline drains for it", int64_t(1));
    o.number("log-every", log_every_, "N", "mini-batches from one line of metrics.jsonl to the next", int64_t(1));
    o.number("seed", trainer_.seed, "N", "of initial weights, order, augmentation and dropout");
    o.text("device", trainer_.device, "NAME", "cpu or cuda");
    o.number("threads", trainer_.threads, "N", "threads on the host, shared among the stages; 0: all", 0);
    o.text("executor", trainer_.executor, "NAME", list(executor_names()) + "; the numbers are the same");
    o.text("out", out_, "RUN", "the run's folder; by default runs/MODEL-METHOD-SEED");
    o.not_in_config();
    o.flag("overwrite", overwrite_, "replace an earlier run in that folder");
    o.not_in_config();
  }

  void run(const Options& options) override {
    if (out_.empty()) out_ = "runs/" + model_ + "-" + trainer_.method + "-" + std::to_string(trainer_.seed);
    if (trainer_.threads == 0) trainer_.threads = threads();
    trainer_.schedule.epochs = double(epochs_);
    const RunFolder folder(out_);
    Dataset dataset;
    std::optional<Graph> graph;
    std::optional<NamedWeights> start;
    check(folder, dataset, graph, start);
    const ModelOptions model_options{dataset.image, dataset.classes};

    const Batches train(dataset, dataset.train, trainer_.batch, true, parse_augmentation(augment_), trainer_.seed, drop_last_);
    const Batches test(dataset, dataset.test, trainer_.batch, false, {}, trainer_.seed);
    Trainer trainer(std::move(*graph), trainer_,
                    {train.size(0), train.size(train.per_epoch() - 1), test.size(0), test.size(test.per_epoch() - 1)});
    if (start) trainer.set_weights(start->weights);

    const std::string configuration =
        "# pipecast " PIPECAST_VERSION ": 'pipecast train --config FILE --out RUN' repeats this run.\n" + options.written_config();
    folder.create(configuration);
    Metrics metrics(folder.metrics());
    describe(trainer, dataset, metrics);
    Run run(trainer, train, test, metrics, epochs_, log_every_);
    const auto begin = Clock::now();
    for (int64_t epoch = 0; epoch < epochs_; epoch += eval_every_) run.train_and_evaluate(epoch, std::min(epoch + eval_every_, epochs_));

    const NamedWeights result{model_, model_options, trainer.weights()};
    const std::string digest = weights_digest(result.weights);
    write_weights(folder.weights(), result);
    const double seconds = seconds_since(begin);
    metrics.write({{"event", "done"},
                   {"weights_digest", digest},
                   {"test_loss", run.result.loss},
                   {"test_accuracy", run.result.accuracy},
                   {"updates", trainer.updates()},
                   {"seconds", seconds}});
    write_file(folder.report(), report_html(model_ + ", " + trainer_.method, configuration, metrics.lines()));
    std::cout << format("\ntest accuracy %.2f %% after %lld epochs in %.0f s\n", 100 * run.result.accuracy, (long long)(epochs_), seconds)
              << "files in " << folder.path() << ": report.html (open it), metrics.jsonl, weights.safetensors, config\nweights sha256 "
              << digest << std::endl;
  }

 private:
  // Finds what is wrong with the input, and makes what is needed to find it.
  void check(const RunFolder& folder, Dataset& dataset, std::optional<Graph>& graph, std::optional<NamedWeights>& start) {
    Mistakes mistakes;
    ModelOptions model_options;
    mistakes.check([&] { find_method(trainer_.method); });
    mistakes.check([&] { trainer_.look_ahead = look_ahead_mode(look_ahead_); });
    mistakes.check([&] { make_optimizer(trainer_.optimizer); });
    mistakes.check([&] { trainer_.schedule.validate(); });
    mistakes.check([&] { parse_augmentation(augment_); });
    mistakes.check([&] { DeviceOwner device(trainer_.device); });
    const std::vector<std::string> executors = executor_names();
    if (std::find(executors.begin(), executors.end(), trainer_.executor) == executors.end())
      mistakes.add(unknown_name("executor", trainer_.executor, executors));
    if (trainer_.label_smoothing >= 1)
      mistakes.add(format("label smoothing is %g: it must be at least 0 and below 1", trainer_.label_smoothing));
    mistakes.check([&] { folder.check_free(overwrite_); });
    mistakes.check([&] {
      dataset = load_dataset(data_);
      model_options = {dataset.image, dataset.classes};
    });
    mistakes.check([&] { graph = make_model(model_, model_options); });
    if (graph) mistakes.check([&] { resolve_partition(*graph); });
    if (graph && !weights_.empty()) mistakes.check([&] { start = read_weights(weights_, model_, dataset.classes); });
    mistakes.report();
  }

  void resolve_partition(const Graph& graph) {
    if (partition_ == "balanced") {
      trainer_.partition = partition(estimated_costs(graph, trainer_.batch), trainer_.stages);
      return;
    }
    if (partition_ == "measured") {
      const int share = std::max(1, trainer_.threads / trainer_.stages);
      trainer_.partition = partition(measured_costs(graph, trainer_.batch, trainer_.device, share), trainer_.stages);
      // What was measured goes into the configuration: another measurement might come out otherwise.
      partition_.clear();
      for (int parts : trainer_.partition) partition_ += (partition_.empty() ? "" : ",") + std::to_string(parts);
      return;
    }
    if (partition_.find_first_not_of("0123456789,") != std::string::npos)
      throw UsageError(unknown_name("partition", partition_, {"balanced", "measured", "3,3,3,2"}));
    trainer_.partition = parse_partition(partition_, int(graph.parts().size()), trainer_.stages);
  }

  // What is trained on what, for people and for metrics.jsonl.
  void describe(Trainer& trainer, const Dataset& dataset, Metrics& metrics) {
    const std::vector<StageSummary> stages = trainer.summaries();
    const std::vector<Part>& parts = trainer.graph().parts();
    int64_t parameters = 0;
    Json rows = Json::array();
    std::string table = "stage  parts                        parameters  copies  frames       memory\n";
    for (const StageSummary& stage : stages) {
      const std::string first = parts[size_t(stage.first_part)].name, last = parts[size_t(stage.first_part + stage.parts - 1)].name;
      parameters += stage.parameters;
      table += format("%5zu  %-28s %10lld  %6d  %6d  %7.1f MiB\n", rows.size(), (first == last ? first : first + " to " + last).c_str(),
                      (long long)(stage.parameters), stage.copies, stage.frames, memory_mebibytes(stage));
      rows.push_back({{"parts", stage.parts},
                      {"parameters", stage.parameters},
                      {"copies", stage.copies},
                      {"frames", stage.frames},
                      {"memory_mebibytes", memory_mebibytes(stage)}});
    }
    std::cout << format("%s with %lld parameters on %s: %lld training and %lld test images\n", model_.c_str(), (long long)(parameters),
                        dataset.name.c_str(), (long long)(dataset.train.size()), (long long)(dataset.test.size()))
              << format("%s, look-ahead %s, %s, batch %lld, seed %llu, device %s, host threads %d\n\n", trainer_.method.c_str(),
                        look_ahead_.c_str(), trainer_.optimizer.name.c_str(), (long long)(trainer_.batch),
                        (unsigned long long)(trainer_.seed), trainer_.device.c_str(), trainer_.threads)
              << table << std::endl;
    metrics.write({{"event", "start"}, {"version", PIPECAST_VERSION}, {"model", model_}, {"parameters", parameters}, {"stages", rows}});
  }

  std::string model_ = "resnet20", weights_, data_ = "generated", augment_ = "none", partition_ = "balanced", look_ahead_ = "paper", out_;
  int64_t epochs_ = 10, eval_every_ = 1, log_every_ = 50;
  bool drop_last_ = false, overwrite_ = false;
  TrainerOptions trainer_;
};

}  // namespace

std::unique_ptr<Command> train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace pipecast
