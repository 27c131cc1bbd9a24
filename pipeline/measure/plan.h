#pragma once
// What a run will take, found before it: the parts of the model with their measured times, the partition, and what each stage holds.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/graph.h"
#include "pipeline/measure/measure.h"
#include "pipeline/plan/simulate.h"
#include "pipeline/run/stage.h"

namespace pipecast {

struct PlannedPart {
  std::string name;
  int64_t parameters = 0;
  int64_t border_bytes = 0;  // activations of a pass, of this part and those before, that later parts read; 0 for the last one
  PartSeconds seconds;       // of a pass
  double update = 0;         // seconds of a mini-batch: the norm of the gradient, the step with a prediction
};

struct PlannedStage {
  std::vector<std::pair<int, int>> parts;  // per chunk: the first, the number
  int64_t parameters = 0;                  // trained weights
  int copies = 1, frames = 1;
  Stage::MemoryUse memory{};  // floats
  int64_t links = 0;          // floats of the places for messages between the stage before and this one, in both directions
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
  bool timed = true;  // else all seconds are 0, as nothing was measured
  SimulatedRun run;
  std::vector<PlannedPart> parts;
  std::vector<int> partition;  // parts per piece
  std::vector<PlannedStage> stages;
  int64_t loader = 0;  // floats of the columns of the data set that are read ahead
  // Measured seconds of a mini-batch, passes and updates, on the slowest stage; what they would be with the best partition of these parts;
  // and if they could be divided equally.
  double slowest = 0, best = 0, perfect = 0;
  std::vector<int> best_partition;

  // Floats of all stages, links and the loader: the run's tensors but for what does not grow with model and batch together (running
  // statistics, columns of integers and losses, the sample of weights that the prediction error is taken over).
  int64_t memory() const;
};

enum class Balance { estimated, measured };  // costs that an empty TrainerOptions::partition is balanced by

// Throws UsageError as Trainer does. batch_shapes: every shape of a mini-batch that the run will meet, as for Trainer; a short last batch
// may need more memory than a full one. Takes the memory of two passes through the model while it measures. The stages are taken to have
// cores of their own; as many as this machine has of them are kept busy at once while the parts are measured.
Plan make_plan(const Graph&, TrainerOptions, Balance = Balance::estimated, std::vector<PassShape> batch_shapes = {});
// Without times: nothing is measured, and no weights or activations are allocated, so that the model may be larger than this machine.
Plan plan_memory(const Graph&, TrainerOptions, std::vector<PassShape> batch_shapes = {});

std::string plan_json(const Plan&);             // of a plan without times, without all that is in seconds, and the costs
SimulatedRun read_plan(std::string_view json);  // what plan_json wrote of a plan with times; throws UsageError for anything else

}  // namespace pipecast
