#include "pipeline/train/epoch_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/format.h"
#include "pipeline/program.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

void check_stops(const Trainer& trainer, const RunOptions& options, int64_t per_epoch) {
  const Stops stops(options, per_epoch);
  trainer.check_size(stops.after(0));  // no way from a stop to the next is longer than the first
  for (int64_t minibatches : stops.intervals()) trainer.check_minibatches(minibatches);
}

EpochLoop::EpochLoop(Trainer& trainer, const Batches& train, const Batches& test, const RunOptions& options, RunObserver observer,
                     std::optional<RunFolder> folder)
    : trainer_(trainer),
      train_(train),
      test_(test),
      options_(options),
      observer_(std::move(observer)),
      folder_(std::move(folder)),
      stops_(options, train.per_epoch()) {
  check_stops(trainer, options, train.per_epoch());
  if (!folder_) {
    metrics_.emplace();
    return;
  }
  folder_->make();
  metrics_.emplace(folder_->metrics());
  writer_.emplace(folder_->checkpoints(), options.checkpoint_keep, *metrics_);
}

void EpochLoop::begin(const RunOrigin& origin, const std::string& configuration) {
  origin_ = origin;
  stages_ = trainer_.summaries();
  if (folder_) folder_->create(configuration);
  write_start({{"event", "start"}});
}

Resumed EpochLoop::resume(const RunOrigin& origin, const Checkpoint& checkpoint, const std::string& configuration) {
  const Json before = description(checkpoint), now = description(origin);
  check_identity(before.at("identity"), now.at("identity"));
  Resumed resumed{changes(before.at("options"), origin.options), ""};
  if (checkpoint.minibatch > stops_.end())
    throw UsageError(format("the run is at mini-batch %lld already and would end at %lld: give more --epochs",
                            (long long)(checkpoint.minibatch), (long long)(stops_.end())));
  origin_ = origin;
  stages_ = trainer_.summaries();  // before restore(): a summary resets the sums that restore() fills in
  trainer_.restore(checkpoint.stages);
  restore(before.at("progression"));
  metrics_->cut(before.at("metrics_bytes"));
  seconds_before_ = at_.seconds;
  if (folder_) folder_->reopen(configuration);

  Json line = {{"event", "resume"}, {"minibatch", checkpoint.minibatch}};
  for (const Change& change : resumed.changes) line["changed"][change.option] = {change.before, change.now};
  if (!resumed.changes.empty()) {
    const bool synchronous = is_synchronous(resolve(trainer_.graph(), trainer_.options()).programs);
    resumed.why_not_identical = why_not_identical(resumed.changes, trainer_.options(), synchronous, stops_.stops(checkpoint.minibatch));
  }
  // Without a folder there are no lines of the earlier process to append to.
  if (!resumed.changes.empty() || !folder_) write_start(std::move(line));
  return resumed;
}

void EpochLoop::restore(const Json& progression) {
  at_.each([&](const char* name, auto& value) {
    const auto saved = progression.find(name);
    if (saved == progression.end()) return;
    if (saved->is_null()) value = std::numeric_limits<std::remove_reference_t<decltype(value)>>::quiet_NaN();
    else saved->get_to(value);
  });
  if (progression.contains("counted")) return;
  // An older version wrote this checkpoint. All its losses were means over samples.
  for (Mark* mark : {&at_.trained, &at_.step, &at_.epoch}) mark->counted = double(mark->samples);
  at_.hits_counted = double(at_.trained.samples);
}

// The first metrics line of a run or of a resumed run.
void EpochLoop::write_start(Json line) {
  const Json changed = line.contains("changed") ? line["changed"] : Json();
  line.erase("changed");
  int64_t parameters = 0;
  for (const StageSummary& stage : stages_) parameters += stage.parameters;
  line.update({{"version", origin_.version}, {"model", trainer_.graph().name()}, {"parameters", parameters}});
  line.update(Json::parse(origin_.notes));
  line["stages"] = stage_rows(stages_);
  if (!changed.is_null()) line["changed"] = changed;
  metrics_->write(std::move(line));
}

std::optional<RunResult> EpochLoop::run() {
  start_trace();
  try {
    train_to_the_end();
  } catch (const Diverged& diverged) {
    metrics_->write(diverged_event(diverged, train_.per_epoch()));
    write_trace();
    throw;
  }
  if (!is_over()) return std::nullopt;
  return finish();
}

double EpochLoop::seconds() const { return seconds_before_ + seconds_since(begin_); }

double EpochLoop::epoch_seconds() const { return at_.epoch_seconds + seconds_since(epoch_start_); }

void EpochLoop::train_to_the_end() {
  while (!is_over()) {
    train_to(stops_.after(at_.minibatches));
    if (stops_.evaluates(at_.minibatches)) evaluate();
    else if (!std::isfinite(at_.trained.loss)) diverged((at_.minibatches - 1) / train_.per_epoch() + 1);
    save();
    if (stop_requested() && !is_over()) break;
  }
  if (!writer_) return;
  writer_->finish();
  // The process that wrote the last checkpoint may have been killed before it removed the older ones.
  if (is_over()) writer_->prune(at_.minibatches, best());
}

// Trains up to mini-batch `end`. The pipeline is filled at the start and drained at the end.
void EpochLoop::train_to(int64_t end) {
  const int64_t begin = at_.minibatches;
  at_fill_ = at_.trained;
  filled_ = epoch_start_ = Clock::now();
  const Outcome outcome = trainer_.train(train_, begin, end, [&](int64_t done) { after_minibatch(begin, done, end); });
  write_trace();
  at_.minibatches = end;
  at_.trained.counted = at_fill_.counted + outcome.loss_count;
  at_.trained.loss = at_fill_.loss + outcome.loss * outcome.loss_count;
  if (outcome.accuracy_count > 0) at_.hits += std::round(outcome.accuracy * outcome.accuracy_count), at_.hits_counted += outcome.accuracy_count;
  at_.epoch_seconds += seconds_since(epoch_start_);
  epoch_start_ = Clock::now();
}

void EpochLoop::after_minibatch(int64_t begin, int64_t done, int64_t end) {
  const int64_t next = begin + done, per_epoch = train_.per_epoch();
  at_.minibatches = next;
  at_.trained.samples += train_.size(next - 1);
  const bool logs = next % options_.log_every == 0, ends_epoch = next % per_epoch == 0 && !(stops_.evaluates(end) && next == end);
  if (logs || ends_epoch) {
    const MeanLoss loss = trainer_.loss_so_far();
    at_.trained.counted = at_fill_.counted + loss.count, at_.trained.loss = at_fill_.loss + loss.mean * loss.count;
  }
  if (logs) log_step(next);
  if (ends_epoch) end_epoch(epoch_row(next / per_epoch));
  if (!announced_ && stop_requested()) announce_stop(begin, next, end);
  if (observer_.on_minibatch) observer_.on_minibatch();
  if (tracing_ && trace_->complete()) write_trace();
}

void EpochLoop::announce_stop(int64_t begin, int64_t next, int64_t end) {
  announced_ = true;
  if (!observer_.on_stop) return;
  const double per_minibatch = seconds_since(filled_) / double(next - begin);
  observer_.on_stop({end, end - next, per_minibatch * double(end - next), end == stops_.end()});
}

RunProgress EpochLoop::progress() const {
  const double speed = double(at_.trained.samples - at_.epoch.samples) / epoch_seconds();
  return {at_.minibatches, speed, double(stops_.end() - at_.minibatches) * double(train_.size(0)) / speed};
}

void EpochLoop::start_trace() {
  if (options_.trace <= 0 || !folder_) return;
  const int64_t begin = at_.minibatches;
  trace_.emplace(trainer_.options().stages, begin, begin + std::min(options_.trace, stops_.end() - begin));
  trainer_.record(&*trace_);
  tracing_ = true;
}

// Called when the trace is complete and each time the pipeline is drained. An incomplete trace is written, too.
void EpochLoop::write_trace() {
  if (!tracing_) return;
  write_file(folder_->trace(), trace_->json());
  if (trace_->complete()) trainer_.record(nullptr), tracing_ = false;
}

void EpochLoop::evaluate() {
  EpochRow row = epoch_row(at_.minibatches / train_.per_epoch());
  if (at_.hits_counted > 0) row.train_accuracy = at_.hits / at_.hits_counted;
  for (const StageSummary& stage : trainer_.summaries())
    row.stages.push_back({stage.busy_share, stage.prediction_error, stage.skipped_updates});
  bool finite = std::isfinite(at_.trained.loss);
  if (finite) {
    const Outcome outcome = evaluate_test();
    row.test_loss = outcome.loss;
    if (classification_ && classification_->classes() > 5) row.test_top5_accuracy = classification_->top5();
    if (outcome.accuracy_count > 0) row.test_accuracy = outcome.accuracy;
    row.test_perplexity = perplexity(trainer_.graph(), outcome.loss);
    finite = std::isfinite(outcome.loss);
  }
  end_epoch(row);
  if (!finite) diverged(row.epoch);
  at_.evaluated(*row.test_loss, row.test_accuracy.value_or(std::nan("")));
  if (at_.best == at_.minibatches) save_best(row.epoch);
}

Outcome EpochLoop::evaluate_test() {
  classification_.reset();
  if (!classifies(trainer_.graph(), test_)) return trainer_.evaluate(test_);
  classification_.emplace(test_);
  return trainer_.evaluate(test_, [this](const Tensor& logits) { classification_->add(logits); });
}

std::optional<Classification> EpochLoop::classification() {
  if (!classification_ && classifies(trainer_.graph(), test_)) evaluate_test();
  return classification_;
}

bool EpochLoop::out_of_patience() const {
  return options_.patience > 0 && at_.best > 0 && stops_.evaluates(at_.minibatches) &&
         at_.minibatches - at_.best >= options_.patience * train_.per_epoch();
}

void EpochLoop::save_best(int64_t epoch) const {
  if (folder_) write_weights(folder_->best_weights(), trainer_.weights(), {{"epoch", std::to_string(epoch)}});
}

void EpochLoop::write_weights(const std::string& path, const Weights& weights, std::map<std::string, std::string> metadata) const {
  SafeTensors file = to_safetensors(weights);
  file.metadata = std::move(metadata);
  file.metadata.insert(origin_.weights_metadata.begin(), origin_.weights_metadata.end());
  write_safetensors(path, file);
}

void EpochLoop::diverged(int64_t epoch) const {
  throw Diverged("the loss is no longer a number after epoch " + std::to_string(epoch) + ": lower --lr, or add --warmup-epochs",
                 {.minibatch = at_.minibatches - 1});
}

Checkpoint EpochLoop::checkpoint() {
  at_.seconds = seconds();
  Json text = description(origin_);
  text["metrics_bytes"] = metrics_->bytes();
  at_.each([&](const char* name, auto& value) { text["progression"][name] = value; });
  return {at_.minibatches, text.dump(), trainer_.save()};
}

void EpochLoop::save() {
  if (!writer_) return;
  writer_->finish();  // so that no more than one checkpoint takes memory
  writer_->write(checkpoint(), best());
}

// `minibatches`: done so far, counted over the whole run.
void EpochLoop::log_step(int64_t minibatches) {
  const StepRow row{minibatches, at_.loss_since(at_.step), rate(minibatches - 1), trainer_.gradient_norm()};
  metrics_->write({{"event", "step"},
                   {"minibatch", row.minibatch},
                   {"epochs", double(minibatches) / double(train_.per_epoch())},
                   {"loss", row.loss},
                   {"learning_rate", row.learning_rate},
                   {"gradient_norm", row.gradient_norm}});
  if (observer_.on_step) observer_.on_step(row);
  if (options_.stop_above > 0 && row.loss > options_.stop_above)
    throw Diverged(format("the mean loss since the last logged step, at mini-batch %lld, is %.4g, above --stop-above %g: lower --lr, or add "
                          "--warmup-epochs or --clip-norm",
                          (long long)(minibatches), row.loss, options_.stop_above),
                   {.minibatch = minibatches - 1});
}

// The row of an epoch that ends here, without the results of an evaluation. The next epoch begins.
EpochRow EpochLoop::epoch_row(int64_t epoch) {
  EpochRow row;
  row.epoch = epoch;
  row.seconds = epoch_seconds();
  row.samples_per_second = double(at_.trained.samples - at_.epoch.samples) / row.seconds;
  epoch_start_ = Clock::now();
  at_.epoch_seconds = 0;
  row.train_loss = at_.loss_since(at_.epoch);
  row.learning_rate = rate(epoch * train_.per_epoch() - 1);
  return row;
}

void EpochLoop::end_epoch(const EpochRow& row) {
  if (observer_.on_epoch) observer_.on_epoch(row);
  metrics_->write(json_of(row));
}

// Writes the files and the last metrics line of a run that reached its end.
RunResult EpochLoop::finish() {
  const Weights weights = trainer_.weights();
  if (folder_) write_weights(folder_->weights(), weights, {});
  const Json done = {{"event", "done"},
                     {"weights_digest", weights_digest(weights)},
                     {"test_loss", at_.test_loss},
                     {"test_accuracy", at_.test_accuracy},
                     {"best_epoch", at_.best / train_.per_epoch()},
                     {"epochs", at_.minibatches / train_.per_epoch()},
                     {"stopped_early", at_.minibatches < stops_.end()},
                     {"updates", trainer_.updates()},
                     {"seconds", seconds()}};
  if (observer_.before_done) {
    std::vector<Json> lines = metrics_->lines();
    lines.push_back(done);
    observer_.before_done(lines);
  }
  metrics_->write(done);  // last of all: a run that says so has all its files
  metrics_->sync();
  return run_result(metrics_->lines());
}

}  // namespace pipecast
