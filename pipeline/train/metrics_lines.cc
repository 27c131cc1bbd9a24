#include "pipeline/train/metrics_lines.h"

#include <nlohmann/json.hpp>

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

}  // namespace

Json diverged_event(const Diverged& diverged, int64_t minibatches_per_epoch) {
  const Fault& fault = diverged.fault;
  Json line{{"event", "diverged"},
            {"epoch", fault.minibatch / minibatches_per_epoch + 1},
            {"minibatch", fault.minibatch},
            {"reason", diverged.what()}};
  if (fault.stage >= 0)
    line.update({{"stage", fault.stage}, {"micro", fault.micro}, {"direction", fault.direction}, {"layer", fault.layer}});
  return line;
}

Json stage_rows(const std::vector<StageSummary>& stages) {
  Json rows = Json::array();
  for (const StageSummary& stage : stages) {
    int parts = 0;
    for (const auto& [first, count] : stage.parts) parts += count;
    rows.push_back({{"parts", parts},
                    {"parameters", stage.parameters},
                    {"copies", stage.copies},
                    {"frames", stage.frames},
                    {"memory_mebibytes", memory_mebibytes(stage)}});
  }
  return rows;
}

Json json_of(const EpochRow& row) {
  Json stages = Json::array();
  for (const EvaluatedStage& stage : row.stages)
    stages.push_back({{"busy", stage.busy}, {"prediction_error", stage.prediction_error}, {"skipped_updates", stage.skipped_updates}});
  return {{"event", "epoch"},
          {"epoch", row.epoch},
          {"train_loss", row.train_loss},
          {"train_accuracy", json_of(row.train_accuracy)},
          {"test_loss", json_of(row.test_loss)},
          {"test_accuracy", json_of(row.test_accuracy)},
          {"test_top5_accuracy", json_of(row.test_top5_accuracy)},
          {"test_perplexity", json_of(row.test_perplexity)},
          {"images_per_second", row.samples_per_second},
          {"learning_rate", row.learning_rate},
          {"seconds", row.seconds},
          {"stages", stages}};
}

double memory_mebibytes(const StageSummary& stage) {
  const Stage::MemoryUse& m = stage.memory;
  return double(m.weights + m.stash + m.gradient + m.state + m.frames + m.arena) * sizeof(float) / (1 << 20);
}

}  // namespace pipecast
