#pragma once
// What a run will take, found before it: the parts of the model with their measured times, the partition, and what each stage holds.
#include <string>
#include <utility>
#include <vector>

#include "models/graph.h"
#include "pipeline/measure.h"
#include "pipeline/simulate.h"
#include "pipeline/trainer.h"

namespace pipecast {

struct PlannedPart {
  std::string name;
  int64_t parameters = 0;
  int64_t border_bytes = 0;  // activations of a pass that leave it for the next part; 0 for the last one
  PartSeconds seconds;       // of a pass
};

struct PlannedStage {
  std::vector<std::pair<int, int>> parts;  // per chunk: the first, the number
  int64_t parameters = 0;                  // trained weights
  int copies = 1, frames = 1;
  Stage::MemoryUse memory{};  // floats
  double seconds = 0;         // of a mini-batch: its passes and the update
};

// A run as a simulation knows it.
struct SimulatedRun {
  std::string model, method;
  Setting setting;    // its mini-batches are those that were planned with
  int64_t batch = 1;  // samples of a mini-batch
  Costs costs;
};

struct Plan {
  SimulatedRun run;
  std::vector<PlannedPart> parts;
  std::vector<int> partition;  // parts per stretch
  std::vector<PlannedStage> stages;
  // Measured seconds of the passes of a mini-batch on the slowest stage, and what it would be if they could be divided equally.
  double slowest = 0, perfect = 0;
};

enum class Balance { estimated, measured };  // costs that an empty TrainerOptions::partition is balanced by

// Throws UsageError as Trainer does. Takes the memory of two passes through the model while it measures. The stages are taken to have
// cores of their own; as many as this machine has of them are kept busy at once while the parts are measured.
Plan make_plan(const Graph&, TrainerOptions, Balance = Balance::estimated);

std::string plan_json(const Plan&);
SimulatedRun read_plan(const std::string& json);  // what plan_json wrote; throws UsageError for anything else

}  // namespace pipecast
