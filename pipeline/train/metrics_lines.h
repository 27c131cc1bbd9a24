#pragma once
// What a run tells of its steps and epochs, and the lines of metrics.jsonl that say it.
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "pipeline/train/trainer.h"

namespace pipecast {

struct StepRow {
  int64_t minibatch = 0;  // done so far, over the whole run
  double loss = 0;        // mean since the last row
  float learning_rate = 0;
  double gradient_norm = 0;  // see Trainer::gradient_norm()
};

struct EvaluatedStage {
  double busy = 0, prediction_error = 0;  // see StageSummary
  int64_t skipped_updates = 0;
};

struct EpochRow {
  int64_t epoch = 0;  // from 1
  double train_loss = 0;
  // Set where the epoch ends with an evaluation; the test's only where the training loss was finite.
  std::optional<double> train_accuracy, test_loss, test_accuracy;
  std::optional<double> test_top5_accuracy;  // of a classifier with more than five classes
  std::optional<double> test_perplexity;     // of a model of tokens
  std::vector<EvaluatedStage> stages;
  double samples_per_second = 0, seconds = 0;  // of training alone
  float learning_rate = 0;                     // of the epoch's last update
};

nlohmann::ordered_json json_of(const EpochRow&);
nlohmann::ordered_json stage_rows(const std::vector<StageSummary>&);  // of a run's first line
// The last line of a run that diverged.
nlohmann::ordered_json diverged_event(const Diverged&, int64_t minibatches_per_epoch);

double memory_mebibytes(const StageSummary&);  // of all its buffers, on its device

}  // namespace pipecast
