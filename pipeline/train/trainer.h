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
#include "pipeline/run/executor.h"
#include "pipeline/run/run_layout.h"

namespace pipecast {

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
  // Throws UsageError where the model cannot be trained on a mini-batch, or micro-batch, as small as one of them.
  void check_batches(const Batches&) const;
  // Throws UsageError where so many from a fill to a drain are more passes than a program may have.
  void check_size(int64_t minibatches) const;
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
  void set_weights(const Weights&);  // throws UsageError for those of another model

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

}  // namespace pipecast
