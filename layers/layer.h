#pragma once
// layers/: one file per layer, its formula, its forward kernel and its backward kernel side by side.
//
// A layer holds its configuration and nothing of a pass: tensors, weights, gradients and scratch all come from the caller,
// so that any number of passes may be in flight. One convention for gradients: the gradient of an input is assigned, the
// gradient of a parameter is accumulated.
//
// The loss is a layer too, the last one of a model in training. It reads the model's prediction and inputs that say what it should have
// been, and adds up what the report shows (Layer::means).
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
  bool bf16 = false;      // its kernels read and write activations in bf16, too; else it is given copies in fp32 (layers/in_fp32.h)
  int64_t saved = 0;      // floats of its own, kept per pass in flight
  int64_t workspace = 0;  // floats of scratch, not kept
  int64_t shared = 0;     // floats of its own, kept from pass to pass: one place for all passes
};

// Everything that one forward or backward call may touch. Null where a call has no use for it.
//
// Required of the caller: the tensors have the shapes and types that output() says, for inputs that prepare() was called with; the
// workspace is not shared with a call that runs at the same time. Ensured by the layer: nothing is written but what is said here to be.
struct Pass {
  Device device;
  bool training = true;
  uint64_t seed = 0;  // random numbers are keyed by (seed, layer, step, element)
  uint64_t step = 0;  // which pass this is: the same in its forward and its backward

  // The pass is a micro-batch, and statistics are to be the whole mini-batch's, updated once (torchgpipe's deferred batch norm).
  // The micro-batches of a mini-batch run forward one after another, in order; none is empty.
  bool deferred = false;
  int64_t samples_before = 0;  // deferred: in the micro-batches of this mini-batch that ran forward; 0 begins a new mini-batch
  bool replay = false;         // a forward that has run before runs again: it leaves statistics, `shared` and `sums` as they are

  std::span<const Tensor> x;               // inputs
  const Normalised* normalised = nullptr;  // x[0] was not written: x[0].data is what it is made of (Layer::takes_normalised)
  Tensor y;                                // output: assigned by forward; data is null where it is left unwritten (Layer::normalises)
  std::span<const Tensor> dx;              // gradients of the inputs: assigned by backward; data is null where it is not needed
  bool adds = false;                       // the first of them is added to instead (Layer::adds)
  Tensor dy;                               // gradient of the output: read by backward; data is null for a loss, where it is 1

  std::span<float* const> weight;      // in the order of Layer::parameters(); forward and backward only read them
  std::span<float* const> dweight;     // accumulated by backward; empty in the input half of a layer that splits
  std::span<float* const> statistics;  // in the order of Layer::statistics(); forward in training updates them
  float* saved = nullptr;              // Needs::saved floats, written by forward, read by backward
  float* workspace = nullptr;          // Needs::workspace floats
  float* shared = nullptr;             // Needs::shared floats, which only forward touches

  // Of a loss, on the device.
  float* sums = nullptr;         // one per Layer::means(): forward adds to them
  const float* scale = nullptr;  // 1 / the mini-batch's count of the loss: backward makes the gradient of scale * (sum of the losses)
};

class Layer {
 public:
  explicit Layer(std::string name) : name_(std::move(name)) {}
  virtual ~Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  const std::string& name() const { return name_; }  // the prefix of its parameters: "layer1.0.conv1"
  virtual const char* kind() const = 0;              // "convolution"

  // What the output is for these inputs; throws UsageError where they do not fit. Activations are fp32 here, however a run stores them.
  virtual TensorSpec output(std::span<const TensorSpec> x) const = 0;
  // Trained tensors, and tensors that training updates without a gradient (batch norm's running mean): the latter are never
  // stashed, predicted or restored. Names are within the layer: "weight".
  virtual std::vector<ParameterSpec> parameters() const { return {}; }
  virtual std::vector<ParameterSpec> statistics() const { return {}; }
  // Called for every shape of a pass before the first one; may build library objects for it. The specs say how activations are stored;
  // where that is bf16 and the layer needs fp32, it is called again for that.
  virtual Needs prepare(Device, std::span<const TensorSpec> x) = 0;
  // Multiply-adds times two of one forward pass; 0 where it is small.
  virtual double flops(std::span<const TensorSpec>) const { return 0; }
  // Of what prepare() chose for such inputs: a library's names of the forward and of both halves of the backward; empty where there was
  // no choice.
  virtual std::string implementation(Device, std::span<const TensorSpec>) const { return {}; }

  // Of a loss: the means that it reports, "loss" first, for example {"loss", "accuracy"}; empty for every other layer.
  virtual std::vector<std::string> means() const { return {}; }
  // Of a loss: assigns what each of these means is taken over in some samples of a mini-batch, such as tokens, or the weights of their classes.
  // x: on the host, with null data where a value is not an input of the model.
  virtual void count(std::span<const Tensor> /*x*/, double* /*counts*/) const {}

  // Whether training needs more than one row (sample x height x width) of x, as for a variance.
  virtual bool compares_rows() const { return false; }
  // Whether backward can be called in two halves (Qi et al., "Zero bubble pipeline parallelism", ICLR 2024): with dweight empty it
  // assigns dx only; with the data of every dx null it reads x and dy and accumulates dweight only.
  virtual bool splits() const { return false; }
  // Whether Pass::step goes into its kernels: then no pass is a repetition of another.
  virtual bool reads_step() const { return false; }

  // Whether backward can add to the gradient of the first input: that saves a place of its own, and a pass over both.
  virtual bool adds() const { return false; }

  // Whether the output may be left unwritten, because the layer that reads it can make it from x[0] as it goes: that saves a tensor
  // of every pass in flight, and writing and reading it. What it is made of lies in Pass::saved from forward on.
  virtual bool normalises() const { return false; }
  virtual Normalised normalised(const Pass&) const { return {}; }
  // Whether x[0] may be such an output, for all shapes that it was prepared for.
  virtual bool takes_normalised() const { return false; }

  virtual void forward(const Pass&) = 0;
  virtual void backward(const Pass&) = 0;

 private:
  std::string name_;
};

}  // namespace pipecast
