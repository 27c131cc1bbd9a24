#pragma once
// A piece of a model that one stage owns, laid out in memory and ready to run on its device.
//
// Every pass in flight has a frame: the tensors that its backward will read. Everything else of a pass (activations that no backward
// reads, gradients, workspace) is in one arena, which all passes of the section use in turn; tensors that are not needed at the same time
// share memory there. The constructor allocates all of it.
//
// Where the backward comes in two halves, the gradients that the second half reads are in the frame too.
#include <functional>
#include <span>
#include <vector>

#include "layers/in_fp32.h"
#include "pipeline/run/section_plan.h"

namespace pipecast {

// Pointers to the parameters of each node in one flat buffer.
struct Binding {
  std::vector<float*> pointers;
  std::vector<size_t> first;  // node i of the section owns pointers [first[i], first[i + 1])

  std::span<float* const> node(size_t i) const { return {pointers.data() + first[i], first[i + 1] - first[i]}; }
};

// What a pass is given besides its data: see Pass in layers/layer.h.
struct PassOptions {
  bool training = true;
  uint64_t seed = 0, step = 0;
  bool deferred = false;
  int64_t samples_before = 0;
  bool replay = false;
};

// The input half assigns the gradients of the inputs, the weight half accumulates those of the parameters: an earlier stage waits
// for the first only (Qi et al., "Zero bubble pipeline parallelism", ICLR 2024). Layers that do not split (Layer::splits) do
// everything in the input half.
enum class Half { both, input, weight };

// Called after each node of a pass, with the tensors that it read and wrote.
using Visit = std::function<void(const Layer&, const Pass&)>;

class Section {
 public:
  // Nodes [first, last) of the graph, for passes of any of the shapes and up to `frames` of them in flight. The layers are prepared for the
  // calling thread's number of threads.
  Section(Device, const Graph&, int first, int last, const std::vector<PassShape>&, int frames, const SectionOptions& = {});

  // The values at the section's borders, see Borders. A value that is made before the section and read both here and after it is an input
  // and an output.
  const std::vector<int>& fed() const { return plan_.borders.fed; }
  const std::vector<int>& inputs() const { return plan_.borders.inputs; }
  const std::vector<int>& outputs() const { return plan_.borders.outputs; }

  // A value at the borders, or the prediction that the loss reads, in a pass of this shape; and its gradient, with null data where it has
  // none. Values stay valid from their receipt to the end of the pass, gradients from their receipt to the end of the backward (of its
  // input half). So a pass that has just ended can run again, with the same results, until another begins. The gradients of inputs are in
  // the same place for all frames.
  Tensor value(int frame, int value, const PassShape&) const;
  Tensor gradient(int frame, int value, const PassShape&) const;

  // Where the section ends with a loss: how many means it reports, and on the device their sums, to which forwards add, and the scale that
  // the backward of a frame reads. Elsewhere 0 and null.
  int means() const { return plan_.means; }
  float* sums() const { return loss_.data(); }
  float* scale(int frame) const { return loss_.data() ? loss_.data() + (1 + frame) * loss_floats : nullptr; }

  const Segments& parameters() const { return plan_.parameters; }
  const Segments& statistics() const { return plan_.statistics; }
  Binding bind_parameters(float* base) const { return bind(plan_.parameters, base, &Layer::parameters); }
  // Without those of layers that can leave them out (Layer::splits) and all of whose parameters are frozen: backward() then computes the
  // gradients of such a layer's inputs alone.
  Binding bind_gradients(float* base, const std::vector<std::string>& frozen) const;
  Binding bind_statistics(float* base) const { return bind(plan_.statistics, base, &Layer::statistics); }

  void forward(int frame, const PassShape&, const Binding& weights, const Binding& statistics, const PassOptions&, const Visit& = {});
  // Reads the output gradients, accumulates the parameters' gradients, assigns the input gradients. The weight half of a pass comes
  // after its input half, with the same arguments; other passes may run in between, in other frames.
  void backward(int frame, const PassShape&, const Binding& weights, const Binding& gradients, const Binding& statistics,
                const PassOptions&, Half = Half::both, const Visit& = {});

  const SectionPlan& plan() const { return plan_; }

  static constexpr int64_t loss_floats = 16;  // for the sums, and for the scale of each frame: they stay aligned

 private:
  using Specs = std::vector<TensorSpec>;

  Tensor tensor(const std::vector<Place>&, int frame, int value, const Specs&) const;
  Binding bind(const Segments&, float* base, std::vector<ParameterSpec> (Layer::*of)() const) const;
  // The tensor that a node reads for an input: the input itself, or what it is computed from where it was left unwritten.
  Tensor read(const PlannedNode&, size_t input, int frame, const Specs&) const;
  Pass pass(size_t node, int frame, const Specs&, const Binding& weights, const Binding& statistics, const PassOptions&);
  void set_gradients(Pass&, const PlannedNode&, int frame, const Specs&, bool assigned);
  void add_spare_gradients(const PlannedNode&, int frame, const Specs&) const;

  Device device_;
  SectionPlan plan_;
  Memory frames_, arena_, shared_;  // shared_: Needs::shared of all layers
  Memory loss_;                     // the sums, then the scale of each frame
  std::vector<Tensor> x_, dx_;      // arguments of the pass that runs
  Normalised normalised_;
  InFp32 in_fp32_;
};

}  // namespace pipecast
