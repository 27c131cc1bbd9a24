// What a person sees of a run: console lines, progress, the report.
#include "app/training.h"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app/class_results.h"
#include "app/preparation.h"
#include "app/progress.h"
#include "app/report.h"
#include "app/signals.h"
#include "engine/files/sha256.h"
#include "pipeline/train/epoch_loop.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

// What is trained on what.
void describe(const TrainingOptions& options, const Dataset& dataset, const Graph& graph, const std::vector<StageSummary>& stages,
              const std::string& start = "") {
  const std::vector<Part>& parts = graph.parts();
  int64_t parameters = 0;
  std::string table = "stage  parts                        parameters  copies  frames       memory\n";
  for (size_t k = 0; k < stages.size(); ++k) {
    const StageSummary& stage = stages[k];
    std::string owns;
    for (const auto& [first, count] : stage.parts) {
      const std::string begin = parts[size_t(first)].name, end = parts[size_t(first + count - 1)].name;
      owns += (owns.empty() ? "" : ", ") + (begin == end ? begin : begin + " to " + end);
    }
    parameters += stage.parameters;
    table += format("%5zu  %-28s %10lld  %6d  %6d  %7.1f MiB\n", k, owns.c_str(), (long long)(stage.parameters), stage.copies, stage.frames,
                    memory_mebibytes(stage));
  }
  std::cout << format("%s with %lld parameters on %s: %lld training and %lld test samples\n", options.model.c_str(),
                      (long long)(parameters), dataset.name.c_str(), (long long)(dataset.train->size()), (long long)(dataset.test->size()))
            << left_out_of(dataset) << start
            << format("%s, look-ahead %s, %s, batch %lld, seed %llu, device %s, host threads %d\n\n", options.trained_by().c_str(),
                      options.look_ahead.c_str(), options.trainer.optimizer.name.c_str(), (long long)(options.trainer.batch),
                      (unsigned long long)(options.trainer.seed), options.trainer.device.c_str(), options.trainer.threads)
            << table << std::endl;
}

// What of the weights that it starts from is not taken, and what stays as it is: a line each.
std::string start_lines(const TrainingOptions& options, const TrainingInput& input, const Graph& graph) {
  std::string lines;
  if (input.start)
    for (const RenewedLayer& layer : input.start->renewed)
      lines += layer.outputs_in_file == 0 ? format("layer %s begins anew: the weights do not have it\n", layer.name.c_str())
                                          : format("layer %s begins anew: the weights have it for %lld classes, the data set has %lld\n",
                                                   layer.name.c_str(), (long long)(layer.outputs_in_file), (long long)(layer.outputs));
  int64_t frozen = 0;
  for (const ParameterSpec& spec : graph.parameters().specs)
    if (is_named(spec.name, options.trainer.groups.frozen)) frozen += spec.count();
  if (frozen > 0) lines += format("%lld parameters are frozen\n", (long long)(frozen));
  return lines;
}

// The values of all options that say what a run is, by name.
NamedValues option_values(const Options& options) {
  NamedValues values;
  for (const Options::Entry& entry : options.entries())
    if (entry.in_config) values.emplace_back(entry.name, entry.get());
  return values;
}

std::string file_digest(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  Sha256 digest;
  digest.add(text.str().data(), text.str().size());
  return digest.hex();
}

// What the run is trained on and by, beyond its options: sizes and digests of the data set, of the program file.
Json identity(const Dataset& dataset, const TrainingOptions& options) {
  Json identity = {{"data set", dataset.name},
                   {"picture", {dataset.image.h, dataset.image.w, dataset.image.c}},
                   {"classes", dataset.classes},
                   {"training pictures", dataset.train->size()},
                   {"test pictures", dataset.test->size()},
                   {"digest of the data set", digest(dataset)}};
  if (!options.program.empty()) identity["digest of the program file"] = file_digest(options.program);
  return identity;
}

std::vector<PassShape> shapes_of(const Batches& train, const Batches& test) {
  std::vector<PassShape> shapes = train.shapes();
  for (const PassShape& shape : test.shapes()) shapes.push_back(shape);
  return shapes;
}

// A run with its lines on the console, which end with report.html.
class Shown {
 public:
  Shown(const TrainingOptions& options, const std::string& configuration, Trainer& trainer, const Batches& train, const Batches& test,
        const std::vector<std::string>& class_names, const RunFolder& folder)
      : options_(options),
        folder_(folder),
        configuration_(configuration),
        class_names_(class_names),
        trainer_(trainer),
        per_epoch_(train.per_epoch()),
        loop_(trainer, train, test, options.run, observer(), folder) {}

  EpochLoop& loop() { return loop_; }

  RunResult run() {
    if (const std::optional<RunResult> result = loop_.run()) return *result;
    throw Interrupted(format("%s: the run is saved after mini-batch %lld of %lld; 'pipecast train --resume %s' goes on with it",
                             caught_signal().c_str(), (long long)(loop_.minibatches()), (long long)(loop_.end()), folder_.path().c_str()));
  }

 private:
  RunObserver observer() {
    RunObserver o;
    o.stop_requested = [] { return !caught_signal().empty(); };
    o.on_stop = [this](const StopNotice& notice) { announce(notice); };
    o.on_minibatch = [this] {
      if (progress_.due()) show_progress();
    };
    o.on_epoch = [this](const EpochRow& row) { show(row); };
    o.before_done = [this](const std::vector<Json>& lines) {
      const std::optional<Classification> classes = loop_.classification();
      write_file(folder_.report(), report_html(options_.model + ", " + options_.trained_by(), configuration_, lines,
                                               classes ? class_tables(*classes, class_names_) : ""));
    };
    return o;
  }

  // Says at once how far it is to where the run can be stopped.
  void announce(const StopNotice& notice) {
    progress_.clear();
    std::cout << format(
                     "%s: the pipeline drains after mini-batch %lld, %lld from now, in about %.0f s; the run %s. A second signal ends "
                     "it at once",
                     caught_signal().c_str(), (long long)(notice.minibatch), (long long)(notice.left), notice.seconds,
                     notice.is_end ? "is done then" : "is saved there and stops")
              << std::endl;
  }

  void show(const EpochRow& row) {
    progress_.clear();
    std::cout << format("epoch %3lld/%lld  train loss ", (long long)(row.epoch), (long long)(options_.run.epochs)) << decimal(row.train_loss, 4);
    if (row.test_loss) std::cout << "  test loss " << decimal(*row.test_loss, 4);
    if (row.test_accuracy) std::cout << format("  test accuracy %6.2f %%", 100 * *row.test_accuracy);
    if (row.test_top5_accuracy) std::cout << format(" (top 5 %6.2f %%)", 100 * *row.test_top5_accuracy);
    if (row.test_perplexity) std::cout << "  perplexity " << decimal(*row.test_perplexity, 2);
    int64_t skipped = 0;  // on the stage that left out most
    for (const EvaluatedStage& stage : row.stages) skipped = std::max(skipped, stage.skipped_updates);
    std::cout << format("  %.0f samples/s  learning rate %.4g", row.samples_per_second, double(row.learning_rate))
              << (skipped > 0 ? format("  %lld updates left out", (long long)(skipped)) : "") << std::endl;
  }

  void show_progress() {
    const RunProgress now = loop_.progress();
    const int64_t epoch = (now.minibatches - 1) / per_epoch_, left = int64_t(now.seconds_left);
    progress_.show(format("epoch %lld/%lld  mini-batch %lld/%lld  loss %s  %.0f samples/s  %lld:%02lld left", (long long)(epoch + 1),
                          (long long)(options_.run.epochs), (long long)(now.minibatches - epoch * per_epoch_), (long long)(per_epoch_),
                          decimal(trainer_.mean_loss(), 4).c_str(), now.samples_per_second, (long long)(left / 60), (long long)(left % 60)));
  }

  const TrainingOptions& options_;
  const RunFolder& folder_;
  const std::string& configuration_;
  const std::vector<std::string>& class_names_;
  Trainer& trainer_;
  int64_t per_epoch_;
  Progress progress_;
  EpochLoop loop_;
};

}  // namespace

Training::Training(TrainingOptions& options, bool resumed)
    : options_(options),
      input_(options.resolve(resumed)),
      train_(input_.dataset.train, {.batch = options.trainer.batch,
                                    .tokens = options.batch_tokens,
                                    .shuffle = true,
                                    .augmentation = parse_augmentation(options.augment),
                                    .seed = options.trainer.seed,
                                    .drop_last = options.drop_last}),
      test_(input_.dataset.test, {.batch = options.trainer.batch, .tokens = options.batch_tokens}),
      trainer_(std::move(*input_.graph), options.trainer, shapes_of(train_, test_)) {
  if (input_.start) trainer_.set_weights(input_.start->weights);
  trainer_.check_batches(train_);
  check_stops(trainer_, options.run, train_.per_epoch());
  trainer_.check_size(test_.per_epoch());
}

RunOrigin Training::origin(const Options& options) const {
  RunOrigin origin;
  origin.version = PIPECAST_VERSION;
  origin.options = option_values(options);
  origin.identity = identity(input_.dataset, options_).dump();
  Json notes = {{"bad_samples_skipped", input_.dataset.skipped}, {"data_notes", input_.dataset.notes}};
  if (input_.start && !input_.start->renewed.empty()) notes["layers_begun_anew"] = list_names(input_.start->renewed);
  origin.notes = notes.dump();
  origin.weights_metadata = weights_metadata(options_.model, model_options_of(input_.dataset), to_text(preparation_of(input_.dataset)));
  return origin;
}

RunResult Training::run(const RunFolder& folder, const Options& options) {
  const std::string configuration = run_configuration(options);
  Shown shown(options_, configuration, trainer_, train_, test_, input_.dataset.class_names, folder);
  shown.loop().begin(origin(options), configuration);
  describe(options_, input_.dataset, trainer_.graph(), shown.loop().stages(), start_lines(options_, input_, trainer_.graph()));
  return shown.run();
}

RunResult Training::resume(const RunFolder& folder, const Options& options, const Checkpoint& checkpoint) {
  const std::string configuration = run_configuration(options);
  Shown shown(options_, configuration, trainer_, train_, test_, input_.dataset.class_names, folder);
  const Resumed resumed = shown.loop().resume(origin(options), checkpoint, configuration);
  describe(options_, input_.dataset, trainer_.graph(), shown.loop().stages());
  std::cout << format("goes on after mini-batch %lld of %lld\n", (long long)(checkpoint.minibatch), (long long)(shown.loop().end()));
  if (const std::string& why = resumed.why_not_identical; !resumed.changes.empty())
    std::cout << (why.empty() ? "the changed options leave the result bit for bit what it would be without an interruption"
                              : "the result is not bit for bit that of a run without an interruption: " + why)
              << "\n";
  std::cout << std::endl;
  return shown.run();
}

}  // namespace pipecast
