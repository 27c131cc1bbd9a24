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
// Values that no training leaves behind: not finite, a negative variance, or a count that is no whole number from 0 to 2^24. A counter is
// a float in memory and exact up to there. If taken, such a count becomes the nearest one that is allowed, and 0 if it is no whole number.
enum class BadValues { refuse, take };

// F64, F16 and BF16 are rounded to fp32. Where all weights' names begin alike because a wrapper saved them ("module.conv1.weight" for
// "conv1.weight"), that beginning is dropped. Tensors of other names are left out if they are no floats and so no weights. Throws UsageError
// that lists what is missing, what is unknown, what has another type or shape, and, unless taken, which tensors have how many bad values.
Weights from_safetensors(const Graph&, const SafeTensors&, const std::string& origin, BadValues = BadValues::refuse);
// SHA-256 over the parameters and statistics in the order of their names.
std::string weights_digest(const Weights&);

}  // namespace pipecast
