#include "pipeline/train/run_result.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace pipecast {

using Json = nlohmann::ordered_json;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

std::vector<Json> read_metrics(const std::string& path) {
  std::vector<Json> lines;
  std::ifstream stream(path);
  for (std::string text; std::getline(stream, text);) {
    Json line = Json::parse(text, nullptr, false);
    if (line.is_discarded()) break;
    lines.push_back(std::move(line));
  }
  return lines;
}

RunResult run_result(const std::string& path) { return run_result(read_metrics(path)); }

RunResult run_result(const std::vector<Json>& metrics) {
  RunResult result;
  std::vector<double> speeds;
  int evaluations = 0;
  for (const Json& line : metrics) {
    const Json& event = line["event"];
    if (event == "start" || event == "resume") {  // a run may go on in other stages
      result.stages.clear();
      evaluations = 0;
      for (const Json& stage : line["stages"]) result.stages.push_back({stage["copies"], stage["memory_mebibytes"], 0});
    }
    if (event == "step") result.epochs_done = line["epochs"];
    if (event == "epoch") {
      result.epochs_done = line["epoch"];
      auto number = [&](const char* key) { return line[key].is_number() ? line[key].get<double>() : NAN; };
      result.epochs.push_back({number("epoch"), number("train_loss"), number("test_loss"), number("test_accuracy")});
      speeds.push_back(line["images_per_second"]);
      if (line["test_accuracy"].is_number())
        result.best_test_accuracy = std::max(result.best_test_accuracy, line["test_accuracy"].get<double>());
      evaluations += !line["stages"].empty();
      for (size_t k = 0; k < line["stages"].size(); ++k)
        if (const Json& error = line["stages"][k]["prediction_error"]; error.is_number())
          result.stages[k].prediction_error += error.get<double>();
    }
    if (event == "diverged") result.diverged = line["epoch"];
    if (event == "done") {
      result.done = true;
      result.test_accuracy = line["test_accuracy"].is_number() ? line["test_accuracy"].get<double>() : NAN;
      result.seconds = line["seconds"];
      result.digest = line["weights_digest"];
    }
  }
  for (StageResult& stage : result.stages) stage.prediction_error /= std::max(1, evaluations);
  result.images_per_second = median(speeds);
  return result;
}

}  // namespace pipecast
