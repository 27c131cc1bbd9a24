#pragma once
// optim/: one file per optimizer. An optimizer is an update rule and its look-ahead, side by side, both in one pass over the
// flat buffers of a stage: it reads w, g and the state, and writes w, the state and, where asked, the predicted weights.
#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/device.h"

namespace pipecast {

// How far and along what to predict (docs/look-ahead.md). With s = the number of updates ahead:
enum class LookAheadMode {
  paper,     // w - s * lr * direction; direction is the state alone (SGD: v; Adam: mhat / (sqrt(vhat) + eps)); no decay term
  released,  // the published code: SGD direction is u * v + (1 - dampening) * g, g before weight decay; Adam's eps is 1e-8
  exact,     // w - (sum of the learning rates of the s next updates) * direction: s and the rates are those that will be
  decayed,   // the s next updates carried out on w with zero gradients: momentum and decoupled decay act as they would
};
LookAheadMode look_ahead_mode(const std::string& name);  // throws UsageError
std::string to_string(LookAheadMode);
std::vector<std::string> look_ahead_modes();

// Where the weights will be `rates.size()` updates from now; rates[j] is the learning rate of the j-th next update
// (paper and released use rates[0] throughout, s times). Empty: the prediction is w itself.
struct LookAhead {
  LookAheadMode mode = LookAheadMode::paper;
  std::span<const float> rates;
};
constexpr int max_look_ahead = 64;  // updates; `decayed` Adam passes one coefficient an update to its kernel

// The flat buffers of a stage, n floats each. `state` has Optimizer::states() buffers, zero before the first update.
struct Buffers {
  int64_t n = 0;
  float* w = nullptr;        // latest weights: read and written
  const float* g = nullptr;  // gradient; predict() reads that of the last step: SGD's released, and SGD without momentum
  std::array<float*, 3> state = {};
  float* predicted = nullptr;  // assigned by predict(), and by step() where it is not null
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual int states() const = 0;  // flat buffers of state
  // The update number t (1 for the first) with learning rate `rate`; then, if b.predicted, the look-ahead from the new weights.
  virtual void step(Device, const Buffers& b, int64_t t, float rate, const LookAhead&) const = 0;
  // The look-ahead alone, after t updates: predicted is assigned, nothing else changes.
  virtual void predict(Device, const Buffers& b, int64_t t, const LookAhead&) const = 0;
};

// What can be chosen; each optimizer reads what it has a use for.
struct OptimizerOptions {
  std::string name = "sgd";
  float momentum = 0.9f, dampening = 0;
  bool nesterov = false;
  float weight_decay = 0;
  float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
};
// Throws UsageError for an unknown name or values out of range; several mistakes are reported together, one a line.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions&);
std::vector<std::string> optimizer_names();

// One per file:
std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions&);    // v = u v + (1 - dampening) (g + wd w); w -= rate * v (nesterov: g + u v)
std::unique_ptr<Optimizer> make_adam(const OptimizerOptions&);   // Kingma and Ba 2015; weight decay is added to the gradient
std::unique_ptr<Optimizer> make_adamw(const OptimizerOptions&);  // Loshchilov and Hutter 2019; weight decay is decoupled

}  // namespace pipecast
