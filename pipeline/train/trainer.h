#pragma once
// Trains a model on a pipeline: the class to embed. It owns the stages and their memory, and allocates all of it in its constructor.
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batches.h"
#include "models/weights.h"
#include "pipeline/run/executor.h"
#include "pipeline/run/run_layout.h"

namespace pipecast {

// What summaries() reports of a stage; shares, errors and skipped updates are those since its last call.
struct StageSummary {
  std::vector<std::pair<int, int>> parts;  // per chunk: its first part of the model, and how many
  int64_t parameters = 0;  // trained weights of the stage
  int copies = 1, frames = 1;
  double busy_share = 0;        // of the wall time of the last train()
  double prediction_error = 0;  // see PredictionError::relative(); 0 where nothing is predicted
  int64_t skipped_updates = 0;
  Stage::MemoryUse memory{};    // floats
};

struct Outcome {
  // Means and their denominators (Layer::means): for a classifier, the number of samples. Samples are left out whose update was skipped
  // because their loss was not finite. The accuracy is NaN where the loss layer reports none.
  double loss = 0, accuracy = std::numeric_limits<double>::quiet_NaN();
  double loss_count = 0, accuracy_count = 0;
  int64_t samples = 0;
  double seconds = 0;
};

struct MeanLoss {
  double mean = 0, count = 0;  // count: its denominator, see Outcome
};

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
  // Records what train() does from now on into the trace, which must have as many stages and outlive the trainer; null: records nothing.
  void record(Trace*);
  // Throws UsageError where the options' programs cannot train so many from a fill to a drain.
  void check_minibatches(int64_t minibatches) const;
  // Throws UsageError where the model cannot be trained on a mini-batch, or micro-batch, as small as one of them.
  void check_batches(const Batches&) const;
  // Throws UsageError where so many from a fill to a drain are more passes than a program may have.
  void check_size(int64_t minibatches) const;
  MeanLoss loss_so_far();  // in the running train(); waits for the device
  double mean_loss() { return loss_so_far().mean; }
  // The norm of the gradient of all stages together, before clipping, in the newest update that, by their programs, all stages make before
  // the last one has this loss. Each stage's part of that gradient was computed with the weights that its passes read. NaN before the first
  // such update, and where it was skipped.
  double gradient_norm() const;

  // One pass over `data` with the latest weights, never the predicted copy. prediction, if given, gets the model's outputs that the loss
  // reads, such as logits, sample after sample in the order of `data`.
  Outcome evaluate(const Batches& data, std::vector<float>* prediction = nullptr);

  Weights weights() const;
  void set_weights(const Weights&);  // throws UsageError for those of another model

  // Everything that another trainer needs to go on as this one would, bit for bit: weights, statistics, the optimizer's state and so on
  // (Stage::save). The tensors of a file for each stage, on the host. Call it between two train().
  std::vector<SafeTensors> save() const;
  // For a trainer of the same model, method and optimizer that has not trained. Tensors are found by name, so that the number of stages,
  // the partition, the executor and the device may differ. Throws UsageError where a tensor is missing or has another shape; the trainer
  // cannot be used then.
  void restore(const std::vector<SafeTensors>&);
  int64_t updates() const;                // that the last stage has made
  std::vector<StageSummary> summaries();  // since the last call
  const Graph& graph() const;
  const TrainerOptions& options() const;
  const std::vector<int>& partition() const;  // parts per piece, as resolved

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace pipecast
