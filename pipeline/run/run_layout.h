#pragma once
// How a run is laid out on its stages, worked out from its options without allocating memory. Trainers are built from it, and plans print
// it.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/graph.h"
#include "optim/schedule.h"
#include "pipeline/plan/layout.h"
#include "pipeline/program.h"
#include "pipeline/run/stage_options.h"

namespace pipecast {

struct TrainerOptions {
  int stages = 1;
  int chunks = 0;              // pieces of the model per stage; 0: as many as the method takes by itself
  std::vector<int> partition;  // parts per piece, chunks * stages of them; empty: balanced by estimated_costs()
  std::string method = methods().front().name;
  LookAheadMode look_ahead = LookAheadMode::paper;
  int micro_batches = 1;
  // Used instead of the method if not empty: a program per stage, from a fill of the pipeline to its drain. It is audited, and repeated:
  // the number of mini-batches trained from a fill to a drain must be a multiple of the program's.
  std::vector<Program> programs;
  Recompute recompute = Recompute::never;
  bool deferred_batch_norm = false;  // running statistics are those of whole mini-batches, not of micro-batches
  double synchronous_epochs = 0;     // epochs at the beginning that are trained synchronously
  double rescale_epochs = 0;         // where the method starts with lower learning rates: epochs over which they grow to the full one
  bool lag_rates = false;            // a stage's learning rate is divided by its lag, see Setting
  // Gradients with a larger norm are scaled down to this norm; 0: none are. With synchronous programs the norm is that of all stages
  // together, else of each stage alone: a stage that waited for the others' gradients would no longer be asynchronous.
  float clip_norm = 0;
  // What happens to an update whose loss or gradient is not finite. If skipped, it is skipped on every stage whose gradient is not finite;
  // with synchronous programs, on all stages.
  NonFinite non_finite = NonFinite::stop;
  OptimizerOptions optimizer;
  GroupOptions groups;
  // Decay of a moving average of the weights (optim/moving_average.h), from 0 to below 1; 0: none is kept. Evaluations read it, and
  // Trainer::weights() returns it. The running statistics of batch norm are averages by themselves and stay as they are.
  float moving_average = 0;
  Schedule schedule;
  int64_t batch = 128;
  int64_t length = 1;  // tokens of a sample, where the model reads sequences; for the estimated costs of the partition, and for plans
  uint64_t seed = 1;
  std::string device = "cpu";
  std::string math = "fp32";         // or "tf32" or "bf16", see DeviceOwner
  bool cuda_graphs = false;          // record the kernels of a pass and replay them by one call, see engine/graph_capture.h
  int threads = 0;                   // of all stages together, shared out evenly, at least one each; 0: as many as the machine has
  std::string executor = "threads";  // or "sequential"

  PassShape pass() const { return {(batch + micro_batches - 1) / micro_batches, length}; }  // the largest micro-batch
  int threads_per_stage() const;
};

struct RunLayout {
  std::vector<int> partition;         // parts per piece
  std::optional<Layout> model;        // its pieces and the channels between them
  std::vector<StageOptions> stages;   // without device, optimizer and norms, which a trainer owns
  std::vector<Program> programs;      // of so many mini-batches that all frames and copies are in use
};
// Throws UsageError for options that do not fit the model or each other. batch_shapes: every shape of a mini-batch that will come; if
// empty, options.batch samples of options.length alone.
RunLayout resolve(const Graph&, const TrainerOptions&, std::vector<PassShape> batch_shapes = {});

// Throws UsageError where training on mini-batches of these shapes would take batch norm's statistics of a single value per channel.
void check_training(const Graph&, const std::vector<PassShape>& batches, int micro_batches);

// The programs that train the next setting.minibatches mini-batches, after setting.done of the run.
std::vector<Program> programs_of(const TrainerOptions&, Setting setting, int64_t updates_per_epoch);

// An estimate of the seconds that forward and backward of each part take in a pass, from its floating-point operations and the bytes it
// moves. It is the same on every machine and in every run, so that a run can be repeated bit for bit. The loss is left out: it takes
// little.
std::vector<double> estimated_costs(const Graph&, const PassShape&);

}  // namespace pipecast
