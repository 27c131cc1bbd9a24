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
  double prediction_error = 0;  // mean over the epochs; 0 where nothing is predicted
};

// NaN: not known.
struct EpochResult {
  double epoch, train_loss, test_loss, test_accuracy;
};

struct RunResult {
  bool done = false;                                 // it came to its end
  int64_t diverged = 0;                              // the epoch in which the run diverged; 0: it did not
  double epochs_done = 0;                            // so far
  double test_accuracy = 0, best_test_accuracy = 0;  // from 0 to 1: at the end, and the best of all evaluations
  double images_per_second = 0;                      // of training, the median over the epochs
  double seconds = 0;                                // in all
  std::string digest;                                // of the weights
  std::vector<StageResult> stages;
  std::vector<EpochResult> epochs;
};

// The lines of a run's metrics.jsonl, up to one that is not complete; none where no file is.
std::vector<nlohmann::ordered_json> read_metrics(const std::string& path);
RunResult run_result(const std::vector<nlohmann::ordered_json>& metrics);
RunResult run_result(const std::string& path);  // of the lines that read_metrics finds there

// Of an odd number of values the middle one, else the mean of the two in the middle; 0 of none.
double median(std::vector<double> values);

}  // namespace pipecast
