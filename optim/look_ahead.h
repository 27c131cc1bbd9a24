#pragma once
// What programs and plans need of the optimizers: the modes of weight prediction (docs/look-ahead.md). Needs no device.
#include <string>
#include <vector>

namespace pipecast {

// The direction of a prediction. With s = the number of updates ahead:
enum class LookAheadMode {
  paper,     // w - s * lr * direction; direction is the state alone (SGD: v; Adam: mhat / (sqrt(vhat) + eps)); no decay term
  released,  // the published code: SGD direction is u * v + (1 - dampening) * g, g before weight decay; Adam's eps is 1e-8
  exact,     // w - (sum of the learning rates of the s next updates) * direction; s is the true number of updates
  decayed,   // w after the s next updates with zero gradients: momentum and decoupled weight decay act, gradients do not
};
LookAheadMode look_ahead_mode(const std::string& name);  // throws UsageError with the known names
std::string to_string(LookAheadMode);
std::vector<std::string> look_ahead_modes();

constexpr int max_look_ahead = 64;  // updates; `decayed` Adam and RMSprop pass their coefficients, some an update, to the kernel

}  // namespace pipecast
