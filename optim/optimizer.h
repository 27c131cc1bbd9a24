#pragma once
// optim/: one file per optimizer. An optimizer is an update rule and its look-ahead, side by side, both in one pass over the
// flat buffers of a stage: it reads w, g and the state, and writes w, the state and, where asked, the predicted weights.
#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/parameters.h"
#include "optim/look_ahead.h"

namespace pipecast {

// Where the weights will be `rates.size()` updates from now; rates[j] is the learning rate of the j-th next update
// (paper and released use rates[0] throughout, s times). Empty: the prediction is w itself.
struct LookAhead {
  LookAheadMode mode = LookAheadMode::paper;
  std::span<const float> rates;
  float gradient_scale = 1;  // predict() only: the gradient scale of the last update, whose gradient it may read
  float decay = 1;           // factor of the weight decay of those updates

  // The factor of the direction: s r_1 in paper and released, r_1 + ... + r_s in exact. Not for decayed.
  double distance() const;
  // Throws UsageError where `decayed` looks more than max_look_ahead updates ahead; `optimizer` is named in the message.
  void check_reach(const char* optimizer) const;
};

// One update of the weights.
struct Update {
  int64_t t = 0;  // its number, 1 for the first
  float rate = 0;
  // Spike compensation (Kosson et al., MLSys 2021): the gradient comes this many updates late, and this update also makes the moves that it
  // would have made in those. Only the update changes; look-aheads use the same state as without it.
  int late = 0;
  float gradient_scale = 1;  // every element of the gradient is multiplied by it where it is read (clipping by norm)
  float decay = 1;           // factor of the weight decay
};

// A parameter that is a matrix, row-major, `offset` floats into the flat buffers.
struct Matrix {
  int64_t offset = 0, rows = 0, columns = 0;
};
// In rising order of offsets: [out,in] as it is, a convolution [O,H,W,I] as O x HWI; vectors are no matrices.
std::vector<Matrix> matrices(const Segments&);

// The flat buffers of a stage, n floats each. `state` has Optimizer::states() buffers, zero before the first update.
struct Buffers {
  int64_t n = 0;
  float* w = nullptr;        // latest weights: read and written
  const float* g = nullptr;  // gradient; predict() reads that of the last step: released, and without momentum, of SGD and RMSprop
  std::array<float*, 3> state = {};
  float* predicted = nullptr;  // assigned by predict(), and by step() where it is not null
  // Muon only: the matrices among the parameters, and Optimizer::scratch() floats of workspace.
  std::span<const Matrix> matrices;
  float* scratch = nullptr;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual int states() const = 0;  // flat buffers of state
  // Floats of workspace for parameters with these matrices.
  virtual int64_t scratch(std::span<const Matrix>) const { return 0; }
  // Whether step() supports spike compensation (Update::late).
  virtual bool compensates() const = 0;
  // Whether the look-ahead reads the gradient of the last update. Then it cannot run while the next gradient is being accumulated.
  virtual bool looks_at_gradient(LookAheadMode) const { return false; }
  // One update; then, if b.predicted, the look-ahead from the new weights. Throws UsageError for a late gradient unless compensates().
  void step(Device, const Buffers& b, const Update&, const LookAhead&) const;
  // The look-ahead alone, after t updates: predicted is assigned, nothing else changes.
  virtual void predict(Device, const Buffers& b, int64_t t, const LookAhead&) const = 0;

 private:
  virtual void update(Device, const Buffers&, const Update&, const LookAhead&) const = 0;
};

// All options of all optimizers; each reads its own.
struct OptimizerOptions {
  std::string name = "sgd";
  float momentum = 0.9f, dampening = 0;
  bool nesterov = false;
  float weight_decay = 0;
  float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
  float momentum_decay = 0.004f;  // NAdam's psi
  float alpha = 0.99f;            // RMSprop's
};
// Throws UsageError for an unknown name or values out of range; several mistakes are reported together, one a line.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions&);
std::vector<std::string> optimizer_names();

struct OptimizerEntry {
  std::string name;
  std::unique_ptr<Optimizer> (*make)(const OptimizerOptions&);
};
// Adds an optimizer that make_optimizer() then finds by its name. Throws UsageError for a name that is taken.
void register_optimizer(OptimizerEntry);

// One per file:
std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions&);    // v = u v + (1 - dampening) (g + wd w); w -= rate * v (nesterov: g + u v)
std::unique_ptr<Optimizer> make_adam(const OptimizerOptions&);   // Kingma and Ba 2015; weight decay is added to the gradient
std::unique_ptr<Optimizer> make_adamw(const OptimizerOptions&);  // Loshchilov and Hutter 2019; weight decay is decoupled
std::unique_ptr<Optimizer> make_nadam(const OptimizerOptions&);  // Dozat 2016, as PyTorch has it; weight decay is decoupled
std::unique_ptr<Optimizer> make_rmsprop(const OptimizerOptions&);  // Tieleman and Hinton 2012, as PyTorch has it, not centered
std::unique_ptr<Optimizer> make_muon(const OptimizerOptions&);     // Jordan et al. 2024; AdamW for what is no matrix

}  // namespace pipecast
