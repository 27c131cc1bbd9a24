#pragma once
// A model's weights as files: safetensors, with torchvision's names and layouts ([O,I,H,W] convolutions, I64 counters).
#include <string>
#include <vector>

#include "engine/files/safetensors.h"
#include "engine/parameters.h"
#include "models/graph.h"

namespace pipecast {

// All tensors of a model on the host: parameters and statistics as flat buffers laid out by graph.parameters() and .statistics().
struct Weights {
  Segments parameters, statistics;
  std::vector<float> parameter_values, statistic_values;
};

Weights initial_weights(const Graph&, uint64_t seed);
SafeTensors to_safetensors(const Weights&);
// F64, F16 and BF16 are rounded to fp32; a prefix that all names have in common because a wrapper of PyTorch saved them ("module.",
// "_orig_mod.") is dropped. Throws UsageError that lists what is missing, what is unknown, what has another shape, and which tensors
// have values that are not finite or negative variances.
Weights from_safetensors(const Graph&, const SafeTensors&, const std::string& origin);
// SHA-256 over the parameters and statistics in the order of their names.
std::string weights_digest(const Weights&);

}  // namespace pipecast
