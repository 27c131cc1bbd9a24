#pragma once
// layers/: one file per layer, its formula, its forward kernel and its backward kernel side by side.
//
// A layer holds its configuration, and what prepare() made, but nothing of a pass: tensors, weights, gradients and workspace all come from
// the caller, so that any number of passes may be in flight. One convention for gradients: the gradient of an input is assigned, the
// gradient of a parameter is accumulated.
//
// The loss is a layer too, the last one of a model in training. It reads the model's prediction and the targets, and adds up the means that
// a run reports (Layer::means).
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/parameters.h"
#include "engine/tensor.h"

namespace pipecast {

// What a layer keeps from forward to backward, and what it needs while it runs, for given shapes.
struct Needs {
  bool input = false;     // backward reads x: it is kept
  bool output = false;    // backward reads y: it is kept
  bool bf16 = false;      // its kernels also take activations in bf16; if false, it is given fp32 copies of them (layers/in_fp32.h)
  int64_t saved = 0;      // floats of its own, kept per pass in flight
  int64_t workspace = 0;  // floats of scratch, not kept
  int64_t shared = 0;     // floats of its own that all passes share and keep (the sums of deferred batch norm)
};

// Everything that one forward or backward call may touch. A pointer is null where the call does not use it.
//
// The caller guarantees: the tensors have the shapes and types that output() says, for inputs that prepare() was called with; no call that
// runs at the same time has the same workspace. The layer guarantees: it writes only what the comments below say.
struct Pass {
  Device device;
  bool training = true;
  uint64_t seed = 0;  // random numbers are keyed by (seed, layer, step, element)
  uint64_t step = 0;  // the number of this pass (every micro-batch has its own); the same in its forward and its backward

  // Deferred batch norm (torchgpipe): the running statistics are updated once for each mini-batch, with those of all its micro-batches
  // together. The micro-batches of a mini-batch run forward one after another, in order; none is empty.
  bool deferred = false;
  int64_t samples_before = 0;  // deferred: samples in the earlier micro-batches of this mini-batch; 0 begins a new mini-batch
  bool replay = false;         // this forward runs a second time, for recomputation: it does not change statistics, `shared` and `sums`

  std::span<const Tensor> x;               // inputs
  const Normalised* normalised = nullptr;  // x[0] itself was not written; x[0].data holds what it is computed from (Layer::takes_normalised)
  Tensor y;                                // output: assigned by forward; data is null where it is left unwritten (Layer::normalises)
  std::span<const Tensor> dx;              // gradients of the inputs: assigned by backward; data is null where it is not needed
  bool adds = false;                       // backward adds to dx[0] instead of assigning it (Layer::adds)
  Tensor dy;                               // gradient of the output: read by backward; data is null for a loss, whose gradient is 1

  std::span<float* const> weight;      // in the order of Layer::parameters(); forward and backward only read them
  std::span<float* const> dweight;     // accumulated by backward; empty in the input half of a layer that splits
  std::span<float* const> statistics;  // in the order of Layer::statistics(); forward in training updates them
  float* saved = nullptr;              // Needs::saved floats, written by forward, read by backward
  float* workspace = nullptr;          // Needs::workspace floats
  float* shared = nullptr;             // Needs::shared floats, which only forward touches

  // Losses only, on the device.
  float* sums = nullptr;         // one for each of Layer::means(); forward adds to them
  const float* scale = nullptr;  // 1 / (the count that the mini-batch's loss is a mean over); backward: the gradient of scale * (sum of losses)
};

class Layer {
 public:
  explicit Layer(std::string name) : name_(std::move(name)) {}
  virtual ~Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  const std::string& name() const { return name_; }  // the prefix of its parameters: "layer1.0.conv1"
  virtual const char* kind() const = 0;              // "convolution"

  // The spec of the output for these inputs, in which activations are given as fp32, however a run stores them. Throws UsageError where the
  // inputs do not fit.
  virtual TensorSpec output(std::span<const TensorSpec> x) const = 0;
  // Trained tensors; and statistics, which training updates without a gradient (batch norm's running mean) and which are never stashed or
  // predicted. Names are those within the layer: "weight".
  virtual std::vector<ParameterSpec> parameters() const { return {}; }
  virtual std::vector<ParameterSpec> statistics() const { return {}; }
  // Called once for every shape of a pass, before the first pass; may make library objects. The specs say how activations are stored. If it
  // returns bf16 = false for bf16 inputs, it is called again with fp32 ones.
  virtual Needs prepare(Device, std::span<const TensorSpec> x) = 0;
  // Floating-point operations of one forward pass (2 for each multiply-add); 0 where they are negligible.
  virtual double flops(std::span<const TensorSpec>) const { return 0; }
  // The implementations that prepare() chose for such inputs: of the forward, the gradient of the inputs, and the gradient of the
  // parameters. Empty where there was nothing to choose.
  virtual std::string implementation(Device, std::span<const TensorSpec>) const { return {}; }

  // Losses only: the names of the means that a run reports, "loss" first, for example {"loss", "accuracy"}. Empty for other layers.
  virtual std::vector<std::string> means() const { return {}; }
  // Losses only: sets counts[k] to the denominator of the k-th mean for some samples of a mini-batch: their number, the number of their
  // tokens, or the sum of their classes' weights. x: on the host; data is null where a value is not an input of the model.
  virtual void count(std::span<const Tensor> /*x*/, double* /*counts*/) const {}

  // Whether training needs more than one row (sample x height x width) of x, as for a variance.
  virtual bool compares_rows() const { return false; }
  // Whether backward can be called in two halves (Qi et al., "Zero bubble pipeline parallelism", ICLR 2024): with dweight empty it
  // assigns dx only; with the data of every dx null it reads x and dy and accumulates dweight only.
  virtual bool splits() const { return false; }
  // Whether the kernels use Pass::step, as dropout's do. Then a pass cannot be recorded as a CUDA graph, since each differs.
  virtual bool reads_step() const { return false; }

  // Whether backward can add to dx[0]. Where other layers read the same value, that saves a second tensor and a kernel that adds the two.
  virtual bool adds() const { return false; }

  // Whether the output may be left unwritten because the next layer can compute it from x[0] as it reads: batch norm and ReLU fused into
  // the convolution behind them (Normalised in engine/tensor.h). That saves a tensor for every pass in flight, and the time to write and
  // read it. After forward, normalised() has the factors; they are in Pass::saved.
  virtual bool normalises() const { return false; }
  virtual Normalised normalised(const Pass&) const { return {}; }
  // Whether x[0] may be such an output, in all shapes that this layer was prepared for.
  virtual bool takes_normalised() const { return false; }

  virtual void forward(const Pass&) = 0;
  virtual void backward(const Pass&) = 0;

 private:
  std::string name_;
};

}  // namespace pipecast
