#include "pipeline/train/run_result.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/median.h"

namespace pipecast {

using Json = nlohmann::ordered_json;

namespace {

double number(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : NAN;
}

bool has_number(const Json& line, const char* key) { return !std::isnan(number(line, key)); }

const Json& stages_of(const Json& line) {
  static const Json none = Json::array();
  const auto found = line.find("stages");
  return found != line.end() && found->is_array() ? *found : none;
}

// Whether run_result() and the report can read the line. stages: of the last "start" or "resume".
bool is_sound(const Json& line, size_t& stages) {
  if (!line.is_object() || !line.contains("event") || !line["event"].is_string()) return false;
  const std::string event = line["event"];
  const Json& of_stages = stages_of(line);
  if (!std::all_of(of_stages.begin(), of_stages.end(), [](const Json& stage) { return stage.is_object(); })) return false;
  if (event == "start" || event == "resume") {
    stages = of_stages.size();
    return stages > 0 && std::all_of(of_stages.begin(), of_stages.end(), [](const Json& stage) {
      return has_number(stage, "copies") && has_number(stage, "memory_mebibytes");
    });
  }
  if (event == "step") return has_number(line, "epochs");
  if (event == "epoch") return has_number(line, "epoch") && of_stages.size() <= stages;
  if (event == "diverged") return has_number(line, "epoch");
  if (event == "done") return has_number(line, "seconds") && line.contains("weights_digest") && line["weights_digest"].is_string();
  return false;
}

// The parts of the model that each stage has.
Json parts_of(const Json& line) {
  Json parts = Json::array();
  for (const Json& stage : stages_of(line)) parts.push_back(stage.value("parts", Json()));
  return parts;
}

}  // namespace

std::vector<Json> read_metrics(const std::string& path, int64_t bytes) {
  std::vector<Json> lines;
  std::ifstream stream(path);
  size_t stages = 0;
  for (std::string text; bytes > 0 && std::getline(stream, text);) {
    bytes -= int64_t(text.size()) + 1;
    Json line = Json::parse(text, nullptr, false);
    const bool whole = bytes >= 0 && !stream.eof();  // its end is there
    if (!whole && line.is_discarded()) break;
    if (line.is_discarded() || !is_sound(line, stages))
      throw UsageError("'" + path + "' line " + std::to_string(lines.size() + 1) +
                       " is not one that a run writes: restore the file from a copy, or begin the run again with --overwrite");
    lines.push_back(std::move(line));
  }
  return lines;
}

RunResult run_result(const std::string& path) { return run_result(read_metrics(path)); }

RunResult run_result(const std::vector<Json>& metrics) {
  RunResult result;
  std::vector<double> speeds;
  int evaluations = 0;  // since the stages were cut as they are now
  Json parts;
  for (const Json& line : metrics) {
    const std::string event = line["event"];
    if ((event == "start" || event == "resume") && parts_of(line) != parts) {
      parts = parts_of(line);
      result.stages.clear();
      evaluations = 0;
      for (const Json& stage : stages_of(line)) result.stages.push_back({int(number(stage, "copies")), number(stage, "memory_mebibytes"), 0});
    }
    if (event == "step") result.epochs_done = number(line, "epochs");  // a fraction
    if (event == "epoch") {
      result.epochs_done = number(line, "epoch");
      result.epochs.push_back({number(line, "epoch"), number(line, "train_loss"), number(line, "test_loss"), number(line, "test_accuracy")});
      if (has_number(line, "images_per_second")) speeds.push_back(number(line, "images_per_second"));
      if (has_number(line, "test_accuracy")) result.best_test_accuracy = std::max(result.best_test_accuracy, number(line, "test_accuracy"));
      const Json& of_stages = stages_of(line);  // empty in an epoch without an evaluation
      evaluations += !of_stages.empty();
      for (size_t k = 0; k < of_stages.size(); ++k)
        if (has_number(of_stages[k], "prediction_error")) result.stages[k].prediction_error += number(of_stages[k], "prediction_error");
    }
    if (event == "diverged") result.diverged = int64_t(number(line, "epoch"));
    if (event == "done") {
      result.done = true;
      result.test_accuracy = number(line, "test_accuracy");
      result.seconds = number(line, "seconds");
      result.digest = line["weights_digest"];
    }
  }
  for (StageResult& stage : result.stages) stage.prediction_error /= std::max(1, evaluations);
  result.images_per_second = median(speeds);
  return result;
}

}  // namespace pipecast
