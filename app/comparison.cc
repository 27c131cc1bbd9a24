#include "app/comparison.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/median.h"
#include "app/options.h"
#include "app/report.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

struct Statistics {
  std::vector<double> values;
  double mean = 0, deviation = 0;  // of the sample, with n - 1
};

Statistics statistics(std::vector<double> values) {
  Statistics s{std::move(values), 0, 0};
  const double n = double(s.values.size());
  for (double value : s.values) s.mean += value / n;
  for (double value : s.values) s.deviation += (value - s.mean) * (value - s.mean) / (n - 1);
  s.deviation = n > 1 ? std::sqrt(s.deviation) : 0;
  return s;
}

std::vector<RunResult> finished(const ComparedEntry& entry) {
  std::vector<RunResult> results;
  for (const ComparedRun& run : entry.runs)
    if (run.result.done) results.push_back(run.result);
  return results;
}

struct Row {
  Statistics accuracy, best;        // of the runs that came to their end
  std::vector<double> speeds;       // of the same
  std::vector<StageResult> stages;  // the prediction error is the mean over those; empty where no run began
};

Row row(const ComparedEntry& entry) {
  Row row;
  for (const ComparedRun& run : entry.runs)
    if (row.stages.empty()) row.stages = run.result.stages;
  for (StageResult& stage : row.stages) stage.prediction_error = 0;
  std::vector<double> accuracies, best;
  const std::vector<RunResult> results = finished(entry);
  for (const RunResult& result : results) {
    accuracies.push_back(result.test_accuracy), best.push_back(result.best_test_accuracy), row.speeds.push_back(result.images_per_second);
    for (size_t k = 0; k < row.stages.size(); ++k)
      row.stages[k].prediction_error += result.stages[k].prediction_error / double(results.size());
  }
  row.accuracy = statistics(accuracies), row.best = statistics(best);
  return row;
}

double total_memory(const Row& row) {
  double sum = 0;
  for (const StageResult& stage : row.stages) sum += stage.memory_mebibytes;
  return sum;
}

double largest_memory(const Row& row) {
  double most = 0;
  for (const StageResult& stage : row.stages) most = std::max(most, stage.memory_mebibytes);
  return most;
}

std::string percent(const Statistics& s) {
  if (s.values.empty()) return "-";
  return format(s.values.size() > 1 ? "%.2f ± %.2f" : "%.2f", 100 * s.mean, 100 * s.deviation);
}

std::string outcome(const ComparedRun& run) {
  if (run.result.done) return format("%.2f", 100 * run.result.test_accuracy);
  return run.result.diverged ? format("diverged at epoch %lld", (long long)(run.result.diverged)) : "failed";
}

// The table's cells, the first row its head.
std::vector<std::vector<std::string>> cells(const Comparison& comparison) {
  std::vector<std::vector<std::string>> rows{
      {"entry", "accuracy, %", "best, %", "each seed, %", "images/s", "copies", "memory, MiB", "largest stage", "prediction error"}};
  for (const ComparedEntry& entry : comparison) {
    const Row r = row(entry);
    std::string each, copies, errors;
    for (const ComparedRun& run : entry.runs) each += (each.empty() ? "" : ", ") + outcome(run);
    for (const StageResult& stage : r.stages) {
      copies += (copies.empty() ? "" : " ") + std::to_string(stage.copies);
      errors += (errors.empty() ? "" : " ") + (stage.prediction_error > 0 ? format("%.3f", stage.prediction_error) : "-");
    }
    const bool began = !r.stages.empty();
    rows.push_back({entry.name, percent(r.accuracy), percent(r.best), each, !r.speeds.empty() ? format("%.0f", median(r.speeds)) : "-",
                    began ? copies : "-", began ? format("%.1f", total_memory(r)) : "-", began ? format("%.1f", largest_memory(r)) : "-",
                    began ? errors : "-"});
  }
  return rows;
}

// Characters, not bytes: "±" is one.
size_t width(const std::string& text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// Mean and range over the runs, at the epochs where all have a value.
Curve mean_curve(const ComparedEntry& entry, double EpochResult::*value, double scale) {
  Curve curve{entry.name, {}};
  const std::vector<RunResult> results = finished(entry);
  for (size_t i = 0; !results.empty() && i < results[0].epochs.size(); ++i) {
    std::vector<double> values;
    for (const RunResult& result : results)
      if (i < result.epochs.size() && std::isfinite(result.epochs[i].*value)) values.push_back(scale * result.epochs[i].*value);
    if (values.size() == results.size())
      curve.points.push_back({results[0].epochs[i].epoch, statistics(values).mean, *std::min_element(values.begin(), values.end()),
                              *std::max_element(values.begin(), values.end())});
  }
  return curve;
}

std::string mean_chart(const std::string& title, const Comparison& comparison, double EpochResult::*value, double scale) {
  std::vector<Curve> curves;
  for (const ComparedEntry& entry : comparison) curves.push_back(mean_curve(entry, value, scale));
  return chart(title, curves);
}

// What the table has no room for.
std::vector<std::string> notes(const Comparison& comparison) {
  std::vector<std::string> notes{
      "Accuracies: on the test pictures after the last epoch and after the best, mean ± sample deviation over the seeds that came to "
      "their end. Copies of the weights and prediction error: per stage, the first stage first; the error is the mean over the epochs, "
      "- where nothing is predicted. Memory: tensors of all stages, and of the stage with the most."};
  for (const ComparedEntry& entry : comparison)
    for (const ComparedRun& run : entry.runs)
      if (!run.failure.empty()) notes.push_back(entry.name + ", seed " + std::to_string(run.seed) + ": " + run.failure);
  return notes;
}

Json json(const Statistics& s) {
  Json object{{"mean", nullptr}, {"deviation", nullptr}, {"values", s.values}};
  if (!s.values.empty()) object["mean"] = s.mean;
  if (s.values.size() > 1) object["deviation"] = s.deviation;
  return object;
}

}  // namespace

std::string comparison_text(const Comparison& comparison) {
  const std::vector<std::vector<std::string>> rows = cells(comparison);
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) text += row[i] + (i + 1 < row.size() ? std::string(widths[i] - width(row[i]) + 2, ' ') : "\n");
  }
  return text;
}

std::string comparison_markdown(const std::string& title, const std::string& configuration, const Comparison& comparison) {
  const std::vector<std::vector<std::string>> rows = cells(comparison);
  std::string text = "# " + title + "\n\n";
  for (const auto& row : rows) {
    for (const std::string& cell : row) text += "| " + cell + " ";
    text += "|\n";
    if (&row == &rows[0]) {
      for (size_t i = 0; i < row.size(); ++i) text += "|---";
      text += "|\n";
    }
  }
  for (const std::string& note : notes(comparison)) text += "\n" + note + "\n";
  return text + "\n```\n" + configuration + "```\n";
}

std::string comparison_html(const std::string& title, const std::string& configuration, const Comparison& comparison) {
  const std::vector<std::vector<std::string>> rows = cells(comparison);
  std::string body = "<table>";
  for (const auto& row : rows) {
    const std::string tag = &row == &rows[0] ? "th" : "td";
    body += "<tr>";
    for (const std::string& cell : row) body += "<" + tag + ">" + escaped(cell) + "</" + tag + ">";
    body += "</tr>\n";
  }
  body += "</table>\n";
  for (const std::string& note : notes(comparison)) body += "<p>" + escaped(note) + "</p>\n";
  body += "<p>Curves: the mean over the seeds, the band from the least to the greatest.</p>\n";
  return page(title,
              body + mean_chart("Training loss", comparison, &EpochResult::train_loss, 1) +
                  mean_chart("Test loss", comparison, &EpochResult::test_loss, 1) +
                  mean_chart("Test accuracy, %", comparison, &EpochResult::test_accuracy, 100),
              configuration);
}

std::string comparison_json(const Comparison& comparison) {
  Json entries = Json::array();
  for (const ComparedEntry& entry : comparison) {
    const Row r = row(entry);
    Json copies = Json::array(), memory = Json::array(), errors = Json::array(), runs = Json::array();
    for (const StageResult& stage : r.stages) {
      copies.push_back(stage.copies), memory.push_back(stage.memory_mebibytes);
      errors.push_back(stage.prediction_error > 0 ? Json(stage.prediction_error) : Json());
    }
    for (const ComparedRun& run : entry.runs) {
      Json object{{"seed", run.seed}, {"folder", run.folder}};
      const RunResult& result = run.result;
      if (result.done)
        object.update({{"outcome", "done"},
                       {"test_accuracy", result.test_accuracy},
                       {"best_test_accuracy", result.best_test_accuracy},
                       {"images_per_second", result.images_per_second},
                       {"seconds", result.seconds},
                       {"weights_digest", result.digest}});
      else if (result.diverged) object.update({{"outcome", "diverged"}, {"epoch", result.diverged}});
      else object.update({{"outcome", "failed"}, {"failure", run.failure}});
      runs.push_back(std::move(object));
    }
    entries.push_back({{"entry", entry.name},
                       {"test_accuracy", json(r.accuracy)},
                       {"best_test_accuracy", json(r.best)},
                       {"images_per_second", r.speeds.empty() ? Json() : Json(median(r.speeds))},
                       {"copies", copies},
                       {"memory_mebibytes", memory},
                       {"prediction_error", errors},
                       {"runs", runs}});
  }
  return Json{{"version", PIPECAST_VERSION}, {"entries", entries}}.dump(1);
}

}  // namespace pipecast
