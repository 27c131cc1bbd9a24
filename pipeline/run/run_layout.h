#pragma once
// How a run is laid out on its stages: found from its options without taking memory. A trainer is made from it, and a plan foretells it.
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
  // In place of the method: a program per stage, from a fill of the pipeline to its drain. It is audited, and repeated: what is
  // trained from fill to drain must be a multiple of its mini-batches.
  std::vector<Program> programs;
  Recompute recompute = Recompute::never;
  bool deferred_batch_norm = false;  // running statistics are those of whole mini-batches, not of micro-batches
  double synchronous_epochs = 0;     // at the beginning, before the method sets in
  double rescale_epochs = 0;         // where the method starts with lower learning rates: until they are the full ones
  bool lag_rates = false;            // a stage's learning rate is divided by its lag, see Setting
  // Gradients whose norm is above are scaled down to it; 0: none are. The norm is that of all stages together where the programs are
  // synchronous, else of each stage alone: a stage that waited for the others' gradients would no longer be asynchronous.
  float clip_norm = 0;
  // What becomes of an update whose loss or gradient is not finite. Left out, it is so on every stage whose gradient shows it: on all where
  // the programs are synchronous.
  NonFinite non_finite = NonFinite::stop;
  OptimizerOptions optimizer;
  Schedule schedule;
  int64_t batch = 128;
  int64_t length = 1;  // of a sample where the model reads sequences: what the partition and a plan reckon with
  uint64_t seed = 1;
  std::string device = "cpu";
  std::string math = "fp32";         // or "tf32" or "bf16", see DeviceOwner
  bool cuda_graphs = false;          // a pass that comes again is given to the GPU by one call, see engine/graph_capture.h
  int threads = 0;                   // in all; 0: as many as the machine has. Each stage gets its share, at least one
  std::string executor = "threads";  // or "sequential"

  PassShape pass() const { return {(batch + micro_batches - 1) / micro_batches, length}; }  // the largest micro-batch
  int threads_per_stage() const;
};

struct RunLayout {
  std::vector<int> partition;         // parts per piece
  std::optional<Layout> model;        // its pieces and the channels between them
  std::vector<StageOptions> stages;   // without device, optimizer and norms, which a trainer owns
  std::vector<Program> programs;      // with as many mini-batches as it takes to need all frames and copies
};
// Throws UsageError for options that do not fit the model or each other. batch_shapes: every shape of a mini-batch that will come; if empty,
// options.batch samples of options.length alone.
RunLayout resolve(const Graph&, const TrainerOptions&, std::vector<PassShape> batch_shapes = {});

// Throws UsageError where training on mini-batches of these shapes would take the statistics of a single value.
void check_training(const Graph&, const std::vector<PassShape>& batches, int micro_batches);

// What a run of mini-batches is trained by. setting: the mini-batches, and those that are done.
std::vector<Program> programs_of(const TrainerOptions&, Setting setting, int64_t updates_per_epoch);

// Seconds that each part is estimated to take forward and backward in a pass, from its arithmetic and the bytes it moves: the same on every
// machine and in every run, so that a run can be repeated bit for bit. The loss is left out: it is small.
std::vector<double> estimated_costs(const Graph&, const PassShape&);

}  // namespace pipecast
