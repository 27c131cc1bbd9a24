#pragma once
// What a model's parts and a stage's updates cost on this machine, in seconds, measured here and now.
#include <string>
#include <vector>

#include "models/graph.h"
#include "optim/optimizer.h"
#include "pipeline/run/run_layout.h"

namespace pipecast {

struct PartSeconds {
  double forward = 0, backward = 0;
  double input_half = 0, weight_half = 0;  // of a backward that comes in halves; 0 where they are not asked for
};

// Of one pass: medians of several runs. Different parts are measured at the same time, each with as many threads as a
// stage has, and as many of them as there are stages with cores of their own: they compete for the machine's memory.
std::vector<PartSeconds> measure_parts(const Graph&, const PassShape&, const std::string& device, const std::string& math, int threads,
                                       int stages, bool halves);

struct UpdateSeconds {
  double step = 0, step_and_predict = 0, predict = 0;  // a step with clearing the gradient for the next one
  double norm = 0;                                     // of the gradient, before each step
  double stash = 0;                                    // copying the weights
};
// Of a stage with these weights that predicts `ahead` updates ahead, with the calling thread's number of threads: medians.
UpdateSeconds measure_updates(const Optimizer&, const Segments& parameters, LookAheadMode, int ahead, const std::string& device);

// Per part of the model: norm, step and prediction, which every mini-batch costs beside its passes.
std::vector<double> measure_part_updates(const Graph&, const Optimizer&, LookAheadMode, const std::string& device, int threads);

// Of a copy of so many bytes on the device, as links make: bytes per second.
double measure_copy_rate(int64_t bytes, const std::string& device);

// Of a mini-batch, measured here and now: its passes and its update.
std::vector<double> measured_costs(const Graph&, const TrainerOptions&);

}  // namespace pipecast
