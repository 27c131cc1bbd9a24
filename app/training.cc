// The epoch loop of a run, with its metrics and progress.
#include "app/training.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/checkpoints.h"
#include "app/progress.h"
#include "app/report.h"
#include "app/resume.h"
#include "app/signals.h"
#include "pipeline/program.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int description_format = 1;  // of a checkpoint's description

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double memory_mebibytes(const StageSummary& stage) {
  const Stage::MemoryUse& m = stage.memory;
  return double(m.weights + m.stash + m.gradient + m.state + m.frames + m.arena) * sizeof(float) / (1 << 20);
}

// The mini-batches at which the pipeline drains, whatever happens: evaluations and checkpoints. Counted over the whole run.
class Stops {
 public:
  Stops(const TrainingOptions& options, int64_t per_epoch)
      : span_(std::min(options.eval_every, options.epochs) * per_epoch),
        every_(options.checkpoint_every),
        end_(options.epochs * per_epoch) {}
  int64_t end() const { return end_; }
  int64_t after(int64_t minibatch) const {
    auto next = [&](int64_t every) { return every > 0 ? (minibatch / every + 1) * every : end_; };
    return std::min({end_, next(span_), next(every_)});
  }
  bool evaluates(int64_t stop) const { return stop % span_ == 0 || stop == end_; }
  bool stops(int64_t minibatch) const { return minibatch == 0 || after(minibatch - 1) == minibatch; }

 private:
  int64_t span_, every_, end_;
};

struct Mark {
  int64_t samples = 0;
  double loss = 0;  // summed over them
};

// What of a run outlives a drain of the pipeline, beside the trainer's state.
struct Progression {
  int64_t minibatches = 0;  // trained
  // Since the last evaluation.
  Mark trained, step, epoch;  // so far, at the last logged step, at the end of the last epoch
  double hits = 0, epoch_seconds = 0;
  double seconds = 0;  // of the run
  Outcome evaluation;  // the last one
  int64_t best = 0;    // the evaluation with the best test accuracy: its mini-batch; 0: there was none yet
  double best_accuracy = 0;

  // Calls visit(name, value) for each value.
  template <class Visit>
  void each(const Visit& visit) {
    visit("minibatches", minibatches);
    visit("samples", trained.samples), visit("loss", trained.loss), visit("hits", hits);
    visit("step_samples", step.samples), visit("step_loss", step.loss);
    visit("epoch_samples", epoch.samples), visit("epoch_loss", epoch.loss), visit("epoch_seconds", epoch_seconds);
    visit("seconds", seconds);
    visit("test_loss", evaluation.loss), visit("test_accuracy", evaluation.accuracy);
    visit("best", best), visit("best_accuracy", best_accuracy);
  }
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

// The run itself, from the first mini-batch, or where it was interrupted, to the last evaluation.
class Run {
 public:
  // origin: what every checkpoint says of the run that it is of.
  Run(Trainer& trainer, Batches train, Batches test, const TrainingOptions& options, const RunFolder& folder, Json origin)
      : trainer_(trainer),
        train_(std::move(train)),
        test_(std::move(test)),
        options_(options),
        folder_(folder),
        stops_(options, train_.per_epoch()),
        origin_(std::move(origin)),
        metrics_(folder.metrics()),
        writer_(folder.checkpoints(), options.checkpoint_keep, metrics_) {}

  Metrics& metrics() { return metrics_; }

  void go_on_from(const Json& description) {
    at_.each([&](const char* name, auto& value) {
      const Json& saved = description.at("progression").at(name);  // null: not a number
      if constexpr (std::is_floating_point_v<std::remove_reference_t<decltype(value)>>)
        value = saved.is_null() ? std::nan("") : saved.get<double>();
      else value = saved;
    });
    metrics_.cut(description.at("metrics_bytes"));
    seconds_before_ = at_.seconds;
  }

  void train() {
    if (options_.trace > 0) {
      const int64_t begin = at_.minibatches;
      trace_.emplace(options_.trainer.stages, begin, begin + std::min(options_.trace, stops_.end() - begin));
      trainer_.record(&*trace_);
      tracing_ = true;
    }
    try {
      train_to_the_end();
    } catch (const Diverged& diverged) {
      metrics_.write(diverged_event(diverged, train_.per_epoch()));
      write_trace();
      throw;
    }
  }

  // What a run leaves that came to its end.
  RunResult finish(const ModelOptions& model, const std::string& configuration) {
    const NamedWeights weights{options_.model, model, trainer_.weights()};
    write_weights(folder_.weights(), weights);
    const Json done = {{"event", "done"},
                       {"weights_digest", weights_digest(weights.weights)},
                       {"test_loss", at_.evaluation.loss},
                       {"test_accuracy", at_.evaluation.accuracy},
                       {"updates", trainer_.updates()},
                       {"seconds", seconds()}};
    std::vector<Json> lines = metrics_.lines();
    lines.push_back(done);
    write_file(folder_.report(), report_html(options_.model + ", " + options_.trained_by(), configuration, lines));
    metrics_.write(done);  // last of all: a run that says so has all its files
    metrics_.sync();
    return run_result(metrics_.lines());
  }

 private:
  double seconds() const { return seconds_before_ + seconds_since(begin_); }

  void train_to_the_end() {
    while (at_.minibatches < stops_.end()) {
      train_to(stops_.after(at_.minibatches));
      if (stops_.evaluates(at_.minibatches)) evaluate();
      else if (!std::isfinite(at_.trained.loss)) diverged((at_.minibatches - 1) / train_.per_epoch() + 1);
      save();
      if (const std::string signal = caught_signal(); !signal.empty() && at_.minibatches < stops_.end()) {
        writer_.finish();
        throw Interrupted(format("%s: the run is saved after mini-batch %lld of %lld; 'pipecast train --resume %s' goes on with it",
                                 signal.c_str(), (long long)(at_.minibatches), (long long)(stops_.end()), folder_.path().c_str()));
      }
    }
    writer_.finish();
    writer_.prune(at_.minibatches, best());  // whoever wrote the last one may have been killed before it did
  }

  // From a fill of the pipeline to its drain.
  void train_to(int64_t end) {
    const int64_t per_epoch = train_.per_epoch(), begin = at_.minibatches;
    const bool evaluates = stops_.evaluates(end);
    at_fill_ = at_.trained;
    filled_ = epoch_start_ = Clock::now();
    const Outcome outcome = trainer_.train(train_, begin, end, [&](int64_t done) {
      const int64_t next = begin + done;
      at_.trained.samples += train_.size(next - 1);
      const bool logs = next % options_.log_every == 0, ends_epoch = next % per_epoch == 0 && !(evaluates && next == end);
      if (logs || ends_epoch) at_.trained.loss = at_fill_.loss + trainer_.mean_loss() * double(at_.trained.samples - at_fill_.samples);
      if (logs) log_step(next);
      if (ends_epoch) end_epoch(next / per_epoch, epoch_row(next / per_epoch));
      if (!announced_ && !caught_signal().empty()) announce_stop(begin, next, end);
      if (progress_.due()) show_progress(next);
      if (tracing_ && trace_->complete()) write_trace();
    });
    write_trace();
    progress_.clear();
    at_.minibatches = end;
    at_.trained.loss = at_fill_.loss + outcome.loss * double(outcome.samples);
    at_.hits += std::round(outcome.accuracy * double(outcome.samples));
    at_.epoch_seconds += seconds_since(epoch_start_);
    epoch_start_ = Clock::now();
  }

  // As soon as it is complete, and what there is of it whenever the stages stop.
  void write_trace() {
    if (!tracing_) return;
    write_file(folder_.trace(), trace_->json());
    if (trace_->complete()) trainer_.record(nullptr), tracing_ = false;
  }

  void evaluate() {
    const int64_t epoch = at_.minibatches / train_.per_epoch();
    Json row = epoch_row(epoch);
    row["train_accuracy"] = at_.hits / double(at_.trained.samples);
    for (const StageSummary& stage : trainer_.summaries())
      row["stages"].push_back(
          {{"busy", stage.busy_share}, {"prediction_error", stage.prediction_error}, {"skipped_updates", stage.skipped_updates}});
    const bool finite = std::isfinite(at_.trained.loss);
    if (finite) {
      at_.evaluation = trainer_.evaluate(test_);
      row["test_loss"] = at_.evaluation.loss, row["test_accuracy"] = at_.evaluation.accuracy;
    }
    end_epoch(epoch, std::move(row));
    if (!finite || !std::isfinite(at_.evaluation.loss)) diverged(epoch);
    if (at_.best == 0 || at_.evaluation.accuracy > at_.best_accuracy)
      at_.best = at_.minibatches, at_.best_accuracy = at_.evaluation.accuracy;
    at_.trained = at_.step = at_.epoch = {};
    at_.hits = at_.epoch_seconds = 0;
  }

  [[noreturn]] void diverged(int64_t epoch) {
    throw Diverged("the loss is no longer a number after epoch " + std::to_string(epoch) + ": lower --lr, or add --warmup-epochs",
                   {.minibatch = at_.minibatches - 1});
  }

  std::optional<int64_t> best() const { return at_.best > 0 ? std::optional(at_.best) : std::nullopt; }

  void save() {
    writer_.finish();  // so that no more than one checkpoint takes memory
    at_.seconds = seconds();
    Json description = origin_;
    description["metrics_bytes"] = metrics_.bytes();
    at_.each([&](const char* name, auto& value) { description["progression"][name] = value; });
    writer_.write({at_.minibatches, description.dump(), trainer_.save()}, best());
  }

  // The mean loss since a mark, which moves here.
  double loss_since(Mark& mark) {
    const double loss = (at_.trained.loss - mark.loss) / double(at_.trained.samples - mark.samples);
    mark = at_.trained;
    return loss;
  }

  float rate(int64_t minibatch) const { return trainer_.options().schedule.at(minibatch, train_.per_epoch()); }

  // `minibatches`: done so far, counted over the whole run.
  void log_step(int64_t minibatches) {
    const double loss = loss_since(at_.step);
    metrics_.write({{"event", "step"},
                    {"minibatch", minibatches},
                    {"epochs", double(minibatches) / double(train_.per_epoch())},
                    {"loss", loss},
                    {"learning_rate", rate(minibatches - 1)},
                    {"gradient_norm", trainer_.gradient_norm()}});
    if (options_.stop_above > 0 && loss > options_.stop_above)
      throw Diverged(format("the mean loss of the mini-batches before mini-batch %lld is %.4g, above --stop-above %g: lower --lr, or add "
                            "--warmup-epochs or --clip-norm",
                            (long long)(minibatches), loss, options_.stop_above),
                     {.minibatch = minibatches - 1});
  }

  Json epoch_row(int64_t epoch) {
    const double seconds = at_.epoch_seconds + seconds_since(epoch_start_);
    const int64_t images = at_.trained.samples - at_.epoch.samples;
    epoch_start_ = Clock::now();
    at_.epoch_seconds = 0;
    images_per_second_ = double(images) / seconds;
    return {{"event", "epoch"},
            {"epoch", epoch},
            {"train_loss", loss_since(at_.epoch)},
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
    std::cout << format("epoch %3lld/%lld  train loss %.4f", (long long)(epoch), (long long)(options_.epochs),
                        row["train_loss"].get<double>());
    if (row["test_loss"].is_number())
      std::cout << format("  test loss %.4f  test accuracy %6.2f %%", row["test_loss"].get<double>(),
                          100 * row["test_accuracy"].get<double>());
    int64_t skipped = 0;  // on the stage that left out most
    for (const Json& stage : row["stages"]) skipped = std::max(skipped, stage["skipped_updates"].get<int64_t>());
    std::cout << format("  %.0f images/s  learning rate %.4g", images_per_second_, row["learning_rate"].get<double>())
              << (skipped > 0 ? format("  %lld updates left out", (long long)(skipped)) : "") << std::endl;
    metrics_.write(std::move(row));
  }

  // Says at once how far it is to where the run can be stopped.
  void announce_stop(int64_t begin, int64_t next, int64_t stop) {
    announced_ = true;
    progress_.clear();
    const double left = seconds_since(filled_) / double(next - begin) * double(stop - next);
    const char* what = stop == stops_.end() ? "is done then" : "is saved there and stops";
    std::cout << format("%s: the pipeline drains after mini-batch %lld, %lld from now, in about %.0f s; the run %s. A second signal ends "
                        "it at once",
                        caught_signal().c_str(), (long long)(stop), (long long)(stop - next), left, what)
              << std::endl;
  }

  void show_progress(int64_t minibatches) {
    const int64_t per_epoch = train_.per_epoch(), epoch = (minibatches - 1) / per_epoch;
    const double speed = double(at_.trained.samples - at_.epoch.samples) / (at_.epoch_seconds + seconds_since(epoch_start_));
    const double left = double(stops_.end() - minibatches) * double(train_.size(0)) / speed;
    progress_.show(format("epoch %lld/%lld  mini-batch %lld/%lld  loss %.4f  %.0f images/s  %lld:%02lld left", (long long)(epoch + 1),
                          (long long)(options_.epochs), (long long)(minibatches - epoch * per_epoch), (long long)(per_epoch),
                          trainer_.mean_loss(), speed, (long long)(left) / 60, (long long)(left) % 60));
  }

  Trainer& trainer_;
  Batches train_, test_;
  const TrainingOptions& options_;
  const RunFolder& folder_;
  Stops stops_;
  Json origin_;
  Progression at_;
  Mark at_fill_;  // of the samples since the last evaluation, those before the pipeline was filled
  Progress progress_;
  Clock::time_point begin_ = Clock::now(), filled_, epoch_start_;
  double seconds_before_ = 0;     // of the run, before this process
  double images_per_second_ = 0;  // of the last epoch
  bool announced_ = false;        // that it stops for a signal
  std::optional<Trace> trace_;
  bool tracing_ = false;  // there is more to record or to write
  Metrics metrics_;
  CheckpointWriter writer_;
};

// What is trained on what, for people; returns the same for metrics.jsonl.
Json describe(const TrainingOptions& options, const Dataset& dataset, const Graph& graph, const std::vector<StageSummary>& stages) {
  const std::vector<Part>& parts = graph.parts();
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
                      dataset.name.c_str(), (long long)(dataset.train->size()), (long long)(dataset.test->size()))
            << (dataset.skipped > 0 ? format("%lld bad samples left out\n", (long long)(dataset.skipped)) : "")
            << format("%s, look-ahead %s, %s, batch %lld, seed %llu, device %s, host threads %d\n\n", options.trained_by().c_str(),
                      options.look_ahead.c_str(), options.trainer.optimizer.name.c_str(), (long long)(options.trainer.batch),
                      (unsigned long long)(options.trainer.seed), options.trainer.device.c_str(), options.trainer.threads)
            << table << std::endl;
  return {{"version", PIPECAST_VERSION},
          {"model", options.model},
          {"parameters", parameters},
          {"bad_samples_skipped", dataset.skipped},
          {"stages", rows}};
}

// Of the run that a checkpoint is of.
Json origin_of(const Dataset& dataset, const TrainingOptions& training, const Options& options) {
  return {{"format", description_format},
          {"version", PIPECAST_VERSION},
          {"options", option_values(options)},
          {"identity", identity(dataset, training)}};
}

std::vector<PassShape> shapes_of(const Batches& train, const Batches& test) {
  std::vector<PassShape> shapes = train.shapes();
  for (const PassShape& shape : test.shapes()) shapes.push_back(shape);
  return shapes;
}

Json description_of(const Checkpoint& checkpoint) {
  Json description = Json::parse(checkpoint.description, nullptr, false);
  if (!description.is_object() || description.value("format", Json()) != description_format)
    throw UsageError(format("the checkpoint of mini-batch %lld was not written by this version of pipecast: resume with the one that began "
                            "the run",
                            (long long)(checkpoint.minibatch)));
  return description;
}

}  // namespace

Training::Training(TrainingOptions& options, bool resumed)
    : options_(options),
      input_(options.resolve(resumed)),
      train_(input_.dataset.train, {.batch = options.trainer.batch,
                                    .shuffle = true,
                                    .augmentation = parse_augmentation(options.augment),
                                    .seed = options.trainer.seed,
                                    .drop_last = options.drop_last}),
      test_(input_.dataset.test, {.batch = options.trainer.batch}),
      trainer_(std::move(*input_.graph), options.trainer, shapes_of(train_, test_)) {
  if (input_.start) trainer_.set_weights(input_.start->weights);
  if (options.trainer.programs.empty()) return;
  const Stops stops(options, train_.per_epoch());
  for (int64_t at = 0; at < stops.end(); at = stops.after(at)) trainer_.check_minibatches(stops.after(at) - at);
}

RunResult Training::run(const RunFolder& folder, const Options& options) {
  const std::string configuration = run_configuration(options);
  folder.make();
  Run run(trainer_, train_, test_, options_, folder, origin_of(input_.dataset, options_, options));
  folder.create(configuration);
  Json start = {{"event", "start"}};
  start.update(describe(options_, input_.dataset, trainer_.graph(), trainer_.summaries()));
  run.metrics().write(std::move(start));
  run.train();
  return run.finish({input_.dataset.image, input_.dataset.classes}, configuration);
}

RunResult Training::resume(const RunFolder& folder, const Options& options, const Checkpoint& checkpoint) {
  const std::string configuration = run_configuration(options);
  const Json description = description_of(checkpoint), origin = origin_of(input_.dataset, options_, options);
  check_identity(description.at("identity"), origin.at("identity"));
  const std::vector<Change> changed = changes(description.at("options"), options);
  const Stops stops(options_, train_.per_epoch());
  if (checkpoint.minibatch > stops.end())
    throw UsageError(format("the run is at mini-batch %lld already and would end at %lld: give more --epochs",
                            (long long)(checkpoint.minibatch), (long long)(stops.end())));
  Run run(trainer_, train_, test_, options_, folder, origin);
  const std::vector<StageSummary> stages = trainer_.summaries();  // which would take from what is restored
  trainer_.restore(checkpoint.stages);
  run.go_on_from(description);
  folder.reopen(configuration);

  Json start = {{"event", "resume"}, {"minibatch", checkpoint.minibatch}};
  start.update(describe(options_, input_.dataset, trainer_.graph(), stages));
  std::cout << format("goes on after mini-batch %lld of %lld\n", (long long)(checkpoint.minibatch), (long long)(stops.end()));
  if (!changed.empty()) {
    const bool synchronous = is_synchronous(pipecast::resolve(trainer_.graph(), options_.trainer).programs);
    const std::string why = why_not_identical(changed, options_, synchronous, stops.stops(checkpoint.minibatch));
    std::cout << (why.empty() ? "the changed options leave the result bit for bit what it would be without an interruption"
                              : "the result is not bit for bit that of a run without an interruption: " + why)
              << "\n";
    for (const Change& change : changed) start["changed"][change.option] = {change.before, change.now};
    run.metrics().write(std::move(start));
  }
  std::cout << std::endl;
  run.train();
  return run.finish({input_.dataset.image, input_.dataset.classes}, configuration);
}

}  // namespace pipecast
