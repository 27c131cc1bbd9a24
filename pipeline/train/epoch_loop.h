#pragma once
// The epoch loop: runs a trainer to its last epoch, with evaluations, metrics, checkpoints, interruption and resuming. The class to embed
// for a whole run; Trainer::train() alone trains a number of mini-batches.
//
//   Trainer trainer(std::move(model), options, train.shapes());         // and those of `test`
//   RunObserver observer;
//   observer.on_epoch = [](const EpochRow& row) { std::printf("%lld: %.4f\n", (long long)row.epoch, row.train_loss); };
//   EpochLoop loop(trainer, train, test, {.epochs = 10}, observer, RunFolder("runs/mine"));
//   loop.begin({.version = "1"});
//   std::optional<RunResult> result = loop.run();                       // empty: it was stopped by observer.stop_requested
//
// and to go on later, in another process, with a trainer made in the same way:
//
//   loop.resume({.version = "1"}, newest_checkpoint(RunFolder("runs/mine").checkpoints(), warn));
//   std::optional<RunResult> result = loop.run();
#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/run/trace.h"
#include "pipeline/train/checkpoints.h"
#include "pipeline/train/classification.h"
#include "pipeline/train/metrics.h"
#include "pipeline/train/metrics_lines.h"
#include "pipeline/train/progression.h"
#include "pipeline/train/resume.h"
#include "pipeline/train/run_folder.h"
#include "pipeline/train/run_options.h"
#include "pipeline/train/run_result.h"
#include "pipeline/train/trainer.h"

namespace pipecast {

// Where a run that was asked to stop will do so.
struct StopNotice {
  int64_t minibatch = 0, left = 0;  // the mini-batch after which the pipeline drains, and how many are left until then
  double seconds = 0;               // an estimate of the time until then
  bool is_end = false;              // that is the end of the run anyway
};

struct RunProgress {
  int64_t minibatches = 0;  // trained so far, over the whole run
  double samples_per_second = 0, seconds_left = 0;
};

// Callbacks of a run; each may be empty. They are called one at a time, possibly from a stage's thread. An exception from one ends the run.
struct RunObserver {
  std::function<bool()> stop_requested;            // called after each mini-batch; once it returns true, the run stops at its next checkpoint
  std::function<void(const StopNotice&)> on_stop;  // called when it first returned true, unless the pipeline is drained already
  std::function<void()> on_minibatch;              // EpochLoop::progress() and Trainer::mean_loss() may be asked in it
  std::function<void(const StepRow&)> on_step;
  std::function<void(const EpochRow&)> on_epoch;
  // Called with all lines of the metrics before the last one, "done", is written to the file. Write other files of a finished run here:
  // then a run whose metrics say "done" has all its files.
  std::function<void(const std::vector<nlohmann::ordered_json>&)> before_done;
};

struct Resumed {
  std::vector<Change> changes;
  std::string why_not_identical;  // see there
};

class EpochLoop {
 public:
  // What is passed by reference must outlive the loop; the trainer must not have trained. With a folder the run's files are written there
  // (run_folder.h); it is created, and locked until the loop ends. Throws UsageError where another process trains into it, or where the
  // trainer's programs do not fit the evaluations and checkpoints.
  EpochLoop(Trainer&, const Batches& train, const Batches& test, const RunOptions&, RunObserver = {}, std::optional<RunFolder> = {});
  EpochLoop(const EpochLoop&) = delete;

  // Call one of these two first. begin() removes an earlier run's files from the folder. configuration: the text for the folder's file
  // `config`.
  void begin(const RunOrigin&, const std::string& configuration = "");
  // Throws UsageError, and changes nothing, where the checkpoint is of another run: another identity, an option changed that must not
  // change, or fewer epochs than are already trained.
  Resumed resume(const RunOrigin&, const Checkpoint&, const std::string& configuration = "");

  // Trains to the end, or as long as RunOptions::patience permits; call it once. Empty where it was interrupted: the checkpoint is then on
  // the disk, if there is a folder. Throws Diverged where training cannot go on, after a line of the metrics that says so.
  std::optional<RunResult> run();

  // The state of the run, to go on from. Call it before or after run().
  Checkpoint checkpoint();
  RunProgress progress() const;
  int64_t minibatches() const { return at_.minibatches; }  // trained so far, over the whole run
  int64_t end() const { return stops_.end(); }
  const std::vector<StageSummary>& stages() const { return stages_; }  // before training
  // Of the last evaluation; evaluates where this process has not done so yet. Empty where the model is no classifier. For before_done.
  std::optional<Classification> classification();

 private:
  using Clock = std::chrono::steady_clock;

  void write_start(nlohmann::ordered_json line);
  void restore(const nlohmann::ordered_json& progression);
  void start_trace();
  void write_trace();
  void train_to_the_end();
  void train_to(int64_t end);
  void after_minibatch(int64_t begin, int64_t done, int64_t end);
  void announce_stop(int64_t begin, int64_t next, int64_t end);
  void evaluate();
  Outcome evaluate_test();
  void save_best(int64_t epoch) const;
  void write_weights(const std::string& path, const Weights&, std::map<std::string, std::string> metadata) const;
  bool out_of_patience() const;
  bool is_over() const { return at_.minibatches >= stops_.end() || out_of_patience(); }
  [[noreturn]] void diverged(int64_t epoch) const;
  void save();
  void log_step(int64_t minibatches);
  EpochRow epoch_row(int64_t epoch);
  void end_epoch(const EpochRow&);
  RunResult finish();
  bool stop_requested() const { return observer_.stop_requested && observer_.stop_requested(); }
  std::optional<int64_t> best() const { return at_.best > 0 ? std::optional(at_.best) : std::nullopt; }
  float rate(int64_t minibatch) const { return trainer_.options().schedule.at(minibatch, train_.per_epoch()); }
  double seconds() const;        // of the run
  double epoch_seconds() const;  // of training, of the epoch

  Trainer& trainer_;
  const Batches &train_, &test_;
  RunOptions options_;
  RunObserver observer_;
  std::optional<RunFolder> folder_;
  Stops stops_;
  RunOrigin origin_;
  std::vector<StageSummary> stages_;
  Progression at_;
  Mark at_fill_;  // the samples since the last evaluation that were trained before the pipeline was full
  Clock::time_point begin_ = Clock::now(), filled_, epoch_start_;
  double seconds_before_ = 0;  // that the run took in earlier processes
  bool announced_ = false;     // on_stop was called
  std::optional<Trace> trace_;
  bool tracing_ = false;  // there is more to record or to write
  std::optional<Metrics> metrics_;
  std::optional<CheckpointWriter> writer_;  // where there is a folder
  std::optional<Classification> classification_;
};

// Throws UsageError where the trainer's programs cannot train from one stop of such a run to the next. per_epoch: mini-batches.
void check_stops(const Trainer&, const RunOptions&, int64_t per_epoch);

}  // namespace pipecast
