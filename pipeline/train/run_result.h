#pragma once
// The result of a run, read from its metrics.jsonl.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace pipecast {

struct StageResult {
  int copies = 1;  // of the weights
  double memory_mebibytes = 0;
  // Mean over the evaluations; 0 where nothing is predicted. Of a run that was resumed with another partition, those since then.
  double prediction_error = 0;
};

// test_loss and test_accuracy are NaN in an epoch without an evaluation, a loss also where it was not finite.
struct EpochResult {
  double epoch, train_loss, test_loss, test_accuracy;
};

// Where the run is not done, test_accuracy is 0, seconds 0 and digest empty.
struct RunResult {
  bool done = false;
  int64_t diverged = 0;           // the epoch in which the run diverged; 0: it did not
  double epochs_done = 0;         // so far
  double test_accuracy = 0;       // share of correct answers after the last epoch; NaN where the loss reports none
  double best_test_accuracy = 0;  // the best of all evaluations; 0 where there was none
  double images_per_second = 0;   // of training, the median over the epochs
  double seconds = 0;             // of the whole run
  std::string digest;             // of the weights
  std::vector<StageResult> stages;
  std::vector<EpochResult> epochs;
};

// The lines of a run's metrics.jsonl, of its first `bytes` bytes; none where there is no file. The last line is dropped where it was cut
// off, as by a kill. Throws UsageError for any other line that a run does not write.
std::vector<nlohmann::ordered_json> read_metrics(const std::string& path, int64_t bytes = INT64_MAX);
// The result of a run with these lines, which read_metrics() accepted or a run is writing.
RunResult run_result(const std::vector<nlohmann::ordered_json>& metrics);
RunResult run_result(const std::string& path);  // run_result(read_metrics(path))

}  // namespace pipecast
