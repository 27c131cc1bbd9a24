#pragma once
// The options of a training run, for every command that trains. A new option is a variable here, a line in declare() and, where its
// value can be wrong, a line in resolve().
#include <optional>
#include <string>

#include "app/options.h"
#include "app/weights_file.h"
#include "data/dataset.h"
#include "models/models.h"
#include "pipeline/train/run_options.h"
#include "pipeline/train/trainer.h"

namespace pipecast {

// What the options name, loaded.
struct TrainingInput {
  Dataset dataset;
  std::optional<Graph> graph;         // the model
  std::optional<NamedWeights> start;  // --weights
};

struct TrainingOptions {
  TrainingOptions();
  // Binds the options to the variables below, which must stay where they are.
  void declare(Options&);
  // Loads the input and fills in what was left to the machine: threads, partition, the schedule's length. Throws UsageError with
  // everything that is wrong, a line each. A run that is `resumed` has weights of its own: those of --weights are not read.
  TrainingInput resolve(bool resumed = false);

  std::string model = "resnet20", weights, data = "generated", augment = "none", bad_samples = "fail", orientation = "ignore",
              partition = "balanced", look_ahead = "paper", recompute = "never", non_finite = "stop", program, freeze, no_decay;
  float label_smoothing = 0;
  int64_t batch_tokens = 0;
  int64_t image_size = 0, resize = 0, cache = DataOptions{}.cache >> 20;  // pixels, pixels, mebibytes
  bool allow_bad_values = false, drop_last = false, cut_layers = false;
  RunOptions run;  // its trace is declared by the command that trains a single run
  TrainerOptions trainer;

  std::string trained_by() const { return program.empty() ? trainer.method : "program " + program; }

 private:
  void resolve_program();
  void resolve_partition(const Graph&, int pieces);
  void resolve_groups(const Graph&, const ModelOptions&);
};

// What a model for this data set is made with; what does not apply stays as it is by itself.
ModelOptions model_options_of(const Dataset&);
// What of a data set is left out, for a person: a line each, "" where nothing is.
std::string left_out_of(const Dataset&);
// Throws UsageError where the data set lacks a column that the model reads.
void check_columns(const Graph&, const Dataset&);
// Throws UsageError where weights are for another number of tokens than the data set has.
void check_tokens(const NamedWeights&, const Dataset&);

// The parts per piece that --partition lists. Throws UsageError where it is no list, or one that does not fit.
// The optimizer where none was named: the method's own, else sgd. Throws UsageError for one that the method is not defined with.
void resolve_optimizer(OptimizerOptions&, const Method&);

// Of pictures; both are in pixels.
constexpr int64_t most_image_size = 2048, most_resize = 4096;
constexpr const char* image_size_help = "side of the images that pictures of any size are scaled to; 0: images as the pictures are";
constexpr const char* resize_help = "what a picture's shorter side becomes before the image is cut from the middle; 0: the image's side";
// Mebibytes.
constexpr int64_t most_cache = int64_t(1) << 24;
constexpr const char* cache_help = "memory for decoded pictures of folders; what has no room is decoded again in each epoch";

constexpr const char* partition_help =
    "balanced, measured, or the number of parts of each stage (of each of its chunks, in the model's order), as in 3,3,3,2";
constexpr const char* optimizer_help = "; unless given: sgd, or what the method is defined with";

std::vector<int> listed_partition(const std::string& option, const Graph&, int pieces);

// The configuration that a run's folder keeps.
std::string run_configuration(const Options&);

}  // namespace pipecast
