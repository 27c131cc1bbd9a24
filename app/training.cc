// The epoch loop of a run, with its metrics and progress.
#include "app/training.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/progress.h"
#include "app/report.h"

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
  Run(Trainer& trainer, Batches train, Batches test, Metrics& metrics, int64_t epochs, int64_t log_every, double stop_above)
      : trainer_(trainer),
        train_(std::move(train)),
        test_(std::move(test)),
        metrics_(metrics),
        epochs_(epochs),
        log_every_(log_every),
        stop_above_(stop_above) {}

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
      row["stages"].push_back(
          {{"busy", stage.busy_share}, {"prediction_error", stage.prediction_error}, {"skipped_updates", stage.skipped_updates}});
    if (std::isfinite(outcome.loss)) {
      result = trainer_.evaluate(test_);
      row["test_loss"] = result.loss, row["test_accuracy"] = result.accuracy;
    }
    end_epoch(last, std::move(row));
    if (!std::isfinite(outcome.loss + result.loss))
      throw Diverged("the loss is no longer a number after epoch " + std::to_string(last) + ": lower --lr, or add --warmup-epochs",
                     {.minibatch = end - 1});
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
    const double loss = loss_since(step_);
    metrics_.write({{"event", "step"},
                    {"minibatch", minibatches},
                    {"epochs", double(minibatches) / double(train_.per_epoch())},
                    {"loss", loss},
                    {"learning_rate", rate(minibatches - 1)},
                    {"gradient_norm", trainer_.gradient_norm()}});
    if (stop_above_ > 0 && loss > stop_above_)
      throw Diverged(format("the mean loss of the mini-batches before mini-batch %lld is %.4g, above --stop-above %g: lower --lr, or add "
                            "--warmup-epochs or --clip-norm",
                            (long long)(minibatches), loss, stop_above_),
                     {.minibatch = minibatches - 1});
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
    int64_t skipped = 0;  // on the stage that left out most
    for (const Json& stage : row["stages"]) skipped = std::max(skipped, stage["skipped_updates"].get<int64_t>());
    std::cout << format("  %.0f images/s  learning rate %.4g", images_per_second_, row["learning_rate"].get<double>())
              << (skipped > 0 ? format("  %lld updates left out", (long long)(skipped)) : "") << std::endl;
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
  double stop_above_;
  int64_t samples_ = 0;  // since the pipeline was filled
  Mark step_, epoch_;    // at the last logged step and at the end of the last epoch
  Clock::time_point epoch_start_;
  double images_per_second_ = 0;  // of the last epoch
};

// The last line of a run that came to nothing.
Json diverged_event(const Diverged& diverged, int64_t minibatches_per_epoch) {
  const Fault& fault = diverged.fault;
  Json line{{"event", "diverged"},
            {"epoch", fault.minibatch / minibatches_per_epoch + 1},
            {"minibatch", fault.minibatch},
            {"reason", diverged.what()}};
  if (fault.stage >= 0)
    line.update({{"stage", fault.stage}, {"micro", fault.micro}, {"direction", fault.direction}, {"layer", fault.layer}});
  return line;
}

// What is trained on what, for people and for metrics.jsonl.
void describe(const TrainingOptions& options, const Dataset& dataset, Trainer& trainer, Metrics& metrics) {
  const std::vector<StageSummary> stages = trainer.summaries();
  const std::vector<Part>& parts = trainer.graph().parts();
  int64_t parameters = 0;
  Json rows = Json::array();
  std::string table = "stage  parts                        parameters  copies  frames       memory\n";
  for (const StageSummary& stage : stages) {
    std::string owns;
    int owned = 0;
    for (const auto& [first, count] : stage.parts) {
      const std::string begin = parts[size_t(first)].name, end = parts[size_t(first + count - 1)].name;
      owns += (owns.empty() ? "" : ", ") + (begin == end ? begin : begin + " to " + end);
      owned += count;
    }
    parameters += stage.parameters;
    table += format("%5zu  %-28s %10lld  %6d  %6d  %7.1f MiB\n", rows.size(), owns.c_str(),
                    (long long)(stage.parameters), stage.copies, stage.frames, memory_mebibytes(stage));
    rows.push_back({{"parts", owned},
                    {"parameters", stage.parameters},
                    {"copies", stage.copies},
                    {"frames", stage.frames},
                    {"memory_mebibytes", memory_mebibytes(stage)}});
  }
  std::cout << format("%s with %lld parameters on %s: %lld training and %lld test images\n", options.model.c_str(), (long long)(parameters),
                      dataset.name.c_str(), (long long)(dataset.train.size()), (long long)(dataset.test.size()))
            << format("%s, look-ahead %s, %s, batch %lld, seed %llu, device %s, host threads %d\n\n", options.trained_by().c_str(),
                      options.look_ahead.c_str(), options.trainer.optimizer.name.c_str(), (long long)(options.trainer.batch),
                      (unsigned long long)(options.trainer.seed), options.trainer.device.c_str(), options.trainer.threads)
            << table << std::endl;
  metrics.write(
      {{"event", "start"}, {"version", PIPECAST_VERSION}, {"model", options.model}, {"parameters", parameters}, {"stages", rows}});
}

}  // namespace

Training::Training(TrainingOptions& options)
    : options_(options),
      input_(options.resolve()),
      train_(input_.dataset, input_.dataset.train, options.trainer.batch, true, parse_augmentation(options.augment), options.trainer.seed,
             options.drop_last),
      test_(input_.dataset, input_.dataset.test, options.trainer.batch, false, {}, options.trainer.seed),
      trainer_(std::move(*input_.graph), options.trainer,
               {train_.size(0), train_.size(train_.per_epoch() - 1), test_.size(0), test_.size(test_.per_epoch() - 1)}) {
  if (input_.start) trainer_.set_weights(input_.start->weights);
  trainer_.check_minibatches(std::min(options.eval_every, options.epochs) * train_.per_epoch());
  trainer_.check_minibatches(options.epochs % options.eval_every * train_.per_epoch());
}

RunResult Training::run(const RunFolder& folder, const std::string& configuration) {
  folder.create(configuration);
  Metrics metrics(folder.metrics());
  describe(options_, input_.dataset, trainer_, metrics);
  Run run(trainer_, train_, test_, metrics, options_.epochs, options_.log_every, options_.stop_above);
  const auto begin = Clock::now();
  try {
    for (int64_t epoch = 0; epoch < options_.epochs; epoch += options_.eval_every)
      run.train_and_evaluate(epoch, std::min(epoch + options_.eval_every, options_.epochs));
  } catch (const Diverged& diverged) {
    metrics.write(diverged_event(diverged, train_.per_epoch()));
    throw;
  }

  const NamedWeights weights{options_.model, {input_.dataset.image, input_.dataset.classes}, trainer_.weights()};
  write_weights(folder.weights(), weights);
  metrics.write({{"event", "done"},
                 {"weights_digest", weights_digest(weights.weights)},
                 {"test_loss", run.result.loss},
                 {"test_accuracy", run.result.accuracy},
                 {"updates", trainer_.updates()},
                 {"seconds", seconds_since(begin)}});
  write_file(folder.report(), report_html(options_.model + ", " + options_.trained_by(), configuration, metrics.lines()));
  return run_result(metrics.lines());
}

}  // namespace pipecast
