#pragma once
// How a stage is laid out: found for all stages by resolve() in pipeline/train/trainer.h.
#include <vector>

#include "engine/device.h"
#include "engine/tensor.h"
#include "optim/groups.h"
#include "optim/schedule.h"
#include "pipeline/plan/layout.h"
#include "pipeline/run/gradient_norms.h"
#include "pipeline/run/health.h"

namespace pipecast {

// A piece of the model: nodes [first_node, last_node) of the graph.
struct ChunkOptions {
  int first_node = 0, last_node = 0;
  int frames = 1;  // passes in flight
  int inputs = 0;  // passes in flight of which only the input is kept
};

struct StageOptions {
  Device device;
  int index = 0;                     // which stage
  const Layout* layout = nullptr;
  std::vector<ChunkOptions> chunks;  // its pieces of the model
  std::vector<PassShape> passes;     // the shapes of the passes that it will see
  int micro_batches = 1;
  Storage activations = Storage::fp32;
  bool predicts = false;    // the store holds a second copy
  bool looks_back = false;  // which is an estimate of earlier weights
  int stash_slots = 0;      // copies of the weights beside the store's
  bool splits_backward = false;
  bool deferred_batch_norm = false;  // running statistics are those of whole mini-batches
  LookAheadMode look_ahead = LookAheadMode::paper;
  const Optimizer* optimizer = nullptr;
  GroupOptions groups;
  float moving_average = 0;  // its decay; 0: none is kept
  Schedule schedule;
  float clip_norm = 0;                 // gradients above this norm are scaled down to it; 0: none is
  GradientNorms* all_norms = nullptr;  // with it the norm is that of all stages' gradients together, else that of this stage's
  NonFinite non_finite = NonFinite::stop;
  uint64_t seed = 0;
  bool cuda_graphs = false;  // passes are recorded and replayed; no layer reads the step, batch norm is not deferred

  SectionOptions section() const { return {activations, splits_backward}; }
};

}  // namespace pipecast
