#pragma once
// A model in training on a pipeline: the piece to embed. It owns the stages and their memory, all of it taken when it is made.
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batches.h"
#include "models/weights.h"
#include "optim/schedule.h"
#include "pipeline/run/executor.h"
#include "pipeline/program.h"

namespace pipecast {

struct TrainerOptions {
  int stages = 1;
  int chunks = 0;              // pieces of the model per stage; 0: as many as the method takes by itself
  std::vector<int> partition;  // parts per piece, chunks * stages of them; empty: balanced by estimated_costs()
  std::string method = "pipeoptim";
  LookAheadMode look_ahead = LookAheadMode::paper;
  int micro_batches = 1;
  // In place of the method: a program per stage, from a fill of the pipeline to its drain. It is audited, and repeated: what is
  // trained from fill to drain must be a multiple of its mini-batches.
  std::vector<Program> programs;
  Recompute recompute = Recompute::never;
  bool deferred_batch_norm = false;  // running statistics are those of whole mini-batches, not of micro-batches
  double synchronous_epochs = 0;     // at the beginning, before the method sets in
  double rescale_epochs = 0;         // pipemare: until its learning rates are the full ones
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
  uint64_t seed = 1;
  std::string device = "cpu";
  std::string math = "fp32";         // or "tf32" or "bf16", see DeviceOwner
  bool cuda_graphs = false;          // a pass that comes again is given to the GPU by one call, see engine/graph_capture.h
  int threads = 0;                   // in all; 0: as many as the machine has. Each stage gets its share, at least one
  std::string executor = "threads";  // or "sequential"

  int64_t pass() const { return (batch + micro_batches - 1) / micro_batches; }  // samples of the largest micro-batch
  int threads_per_stage() const;
};

// Per stage, of the passes since the last call.
struct StageSummary {
  std::vector<std::pair<int, int>> parts;  // per chunk: the first, the number
  int64_t parameters = 0;  // trained weights of the stage
  int copies = 1, frames = 1;
  double busy_share = 0;        // of the wall time of the last train()
  double prediction_error = 0;  // see PredictionError::relative(); 0 where nothing is predicted
  int64_t skipped_updates = 0;
  Stage::MemoryUse memory{};    // floats
};

struct Outcome {
  // Means, without samples whose updates were left out for their loss, and what they are taken over (Layer::means): the samples of a
  // classifier. The accuracy is not a number where the loss reports none.
  double loss = 0, accuracy = std::numeric_limits<double>::quiet_NaN();
  double loss_count = 0, accuracy_count = 0;
  int64_t samples = 0;
  double seconds = 0;
};

struct MeanLoss {
  double mean = 0, count = 0;  // what it is taken over: see Outcome
};

// How a run is laid out, found without taking memory.
struct RunLayout {
  std::vector<int> partition;         // parts per piece
  std::optional<Layout> model;        // its pieces and the channels between them
  std::vector<StageOptions> stages;   // without device, optimizer and norms, which a trainer owns
  std::vector<Program> programs;      // with as many mini-batches as it takes to need all frames and copies
};
// Throws UsageError for options that do not fit the model or each other. batch_shapes: as in Trainer.
RunLayout resolve(const Graph&, const TrainerOptions&, std::vector<PassShape> batch_shapes = {});

class Trainer {
 public:
  // Throws UsageError for options that do not fit the model or each other. batch_shapes: every shape of a mini-batch that train() and
  // evaluate() will meet (Batches::shapes); options.batch samples alone if empty. The model's last layer is its loss.
  Trainer(Graph, TrainerOptions, std::vector<PassShape> batch_shapes = {});
  ~Trainer();

  // Mini-batches [begin, end) of `data`, counted over all epochs, from a fill of the pipeline to its drain. `progress` is called
  // from the last stage after each mini-batch with the number done; mean_loss() and gradient_norm() may be asked in it. Throws Diverged
  // where a loss or gradient is not finite, before the update with it; after any exception the trainer is of no more use.
  Outcome train(const Batches& data, int64_t begin, int64_t end, const std::function<void(int64_t done)>& progress = {});
  // What train() does from now on goes into the trace, of as many stages, which outlives it; null: nowhere.
  void record(Trace*);
  // Throws UsageError where the options' programs cannot train so many from a fill to a drain.
  void check_minibatches(int64_t minibatches) const;
  MeanLoss loss_so_far();  // in the running train(); waits for the device
  double mean_loss() { return loss_so_far().mean; }
  // The norm of the gradient of all stages together, before clipping, in the newest update that the program has all of them do before the
  // last stage has this loss. It is the gradient of one mini-batch, each stage's share in it as of the weights that its passes read.
  // No number before the first such update, and where it was skipped.
  double gradient_norm() const;

  // One pass over `data`, with the latest weights, never the predicted copy. prediction, if given, gets what the loss is taken of, such as
  // logits, sample after sample in the order of `data`.
  Outcome evaluate(const Batches& data, std::vector<float>* prediction = nullptr);

  Weights weights() const;
  void set_weights(const Weights&);

  // All that training needs to go on in another trainer as it would in this one, bit for bit: weights, statistics, the optimizer's
  // state and what else outlives a drain of the pipeline (Stage::save). On the host, a file's tensors per stage; between two train().
  std::vector<SafeTensors> save() const;
  // Into a trainer that has not trained, of the same model, method and optimizer. What was saved is found by the parameters' names: stages,
  // partition, executor and device may be others. Throws UsageError where a tensor is missing or has another shape; the trainer is
  // of no use then.
  void restore(const std::vector<SafeTensors>&);
  int64_t updates() const;                // of the last stage
  std::vector<StageSummary> summaries();  // since the last call
  const Graph& graph() const;
  const TrainerOptions& options() const;
  const std::vector<int>& partition() const;  // parts per piece, as resolved

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Seconds that each part is estimated to take forward and backward in a pass, from its arithmetic and the bytes it moves: the same on every
// machine and in every run, so that a run can be repeated bit for bit. The loss is left out: it is small.
std::vector<double> estimated_costs(const Graph&, const PassShape&);
// Of a mini-batch, measured here and now (pipeline/measure/measure.h): its passes and its update.
std::vector<double> measured_costs(const Graph&, const TrainerOptions&);

}  // namespace pipecast
