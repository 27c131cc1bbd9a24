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
// Bad values are those that no training leaves behind: not finite, a negative variance, or a counter that is not a whole number from 0 to
// 2^24. (A counter is a float in memory, which is exact up to 2^24.) Where bad values are accepted, such a counter becomes the nearest
// allowed one, or 0 if it is no whole number.
enum class BadValues { refuse, take };

// F64, F16 and BF16 are rounded to fp32. Where a wrapper saved the weights under a common prefix ("module.conv1.weight" for
// "conv1.weight"), the prefix is dropped. Tensors with other names are ignored if they are not floating-point, as they are no weights then,
// or if the model leaves them out (Graph::leave_out). Throws UsageError that lists what is missing, what is unknown, what has another type
// or shape, and, unless they are accepted, which tensors have how many bad values.
Weights from_safetensors(const Graph&, const SafeTensors&, const std::string& origin, BadValues = BadValues::refuse);
// A layer that a file has for another number of outputs (classes) than the model.
struct RenewedLayer {
  std::string name;
  int64_t outputs_in_file = 0, outputs = 0;
};
// In the file, gives those of the layers that it has for another number of outputs the values that a model with this seed begins with, so
// that the file fits; and a whole head (Graph::Files) if it has none, whose layers then have 0 outputs in the file. Returns them.
std::vector<RenewedLayer> renew(SafeTensors&, const Graph&, const std::vector<std::string>& layers, uint64_t seed);

// SHA-256 over the parameters and statistics in the order of their names.
std::string weights_digest(const Weights&);

}  // namespace pipecast
