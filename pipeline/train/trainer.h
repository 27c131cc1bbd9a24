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
  std::vector<std::pair<int, int>> parts;  // per chunk: its first part of the model, and its number of parts
  int64_t parameters = 0;  // trained weights of the stage
  int copies = 1, frames = 1;   // of the weights; of passes in flight, over all chunks
  double busy_share = 0;        // of the wall time of train()
  double prediction_error = 0;  // see PredictionError::relative(); 0 where nothing is predicted
  int64_t skipped_updates = 0;
  Stage::MemoryUse memory{};    // floats
};

struct Outcome {
  // Means and their denominators (Layer::means): for a classifier, the number of samples. Both leave out samples whose update was skipped
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

  // Trains mini-batches [begin, end) of `data`, counted over all epochs; fills the pipeline at `begin` and drains it at `end`.
  // progress(done) is called in the last stage's thread when the loss of a mini-batch is known, with the number of this call's mini-batches
  // whose loss is known; mean_loss() and gradient_norm() may be called in it. Throws Diverged where a loss or gradient is not finite,
  // before the update with it (with NonFinite::skip it goes on). After any exception the trainer cannot be used.
  Outcome train(const Batches& data, int64_t begin, int64_t end, const std::function<void(int64_t done)>& progress = {});
  // Records what train() does from now on into the trace, which must have as many stages and outlive the trainer; null: records nothing.
  void record(Trace*);
  // Throws UsageError where TrainerOptions::programs is set and this is no multiple of its number of mini-batches.
  void check_minibatches(int64_t minibatches) const;
  // Throws UsageError where the model cannot be trained on a mini-batch, or micro-batch, as small as one of them.
  void check_batches(const Batches&) const;
  // Throws UsageError where so many from a fill to a drain are more passes than a program may have.
  void check_size(int64_t minibatches) const;
  MeanLoss loss_so_far();  // of the running, or the last, train() or evaluate(); waits for the device
  double mean_loss() { return loss_so_far().mean; }
  // The norm of the gradient of all stages together, before clipping, in the newest update that every stage has made when the newest loss
  // is known (in a pipeline, some updates behind it). NaN before the first such update, and where it was skipped.
  double gradient_norm() const;

  // One pass over `data` with the latest weights, never the predicted copy, or with their moving average where the options ask for one.
  // prediction, if given, gets the model's outputs that the loss
  // reads, such as logits, sample after sample in the order of `data`.
  Outcome evaluate(const Batches& data, std::vector<float>* prediction = nullptr);
  // The same; on_prediction is called with the outputs of one micro-batch after another, on the host, in the last stage's thread.
  Outcome evaluate(const Batches& data, const std::function<void(const Tensor&)>& on_prediction);

  Weights weights() const;           // that evaluate() reads
  void set_weights(const Weights&);  // throws UsageError for those of another model

  // Everything that another trainer needs to go on as this one would, bit for bit: weights, statistics, the optimizer's state and so on
  // (Stage::save). One SafeTensors per stage, on the host. Call it between two train().
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
