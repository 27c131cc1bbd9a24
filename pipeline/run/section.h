#pragma once
// The stretch of a model that one stage owns, laid out in memory and ready to run on its device.
//
// What backward will read again lies in a frame, one for every pass in flight. Everything else of a pass (activations that
// backward does not read, gradients, the libraries' scratch) lies in one arena that all passes of the stage share, where
// tensors that are never alive at the same time share their place. All of it is taken in the constructor.
//
// Activations and their gradients are stored as the device says (Device::storage).
//
// A backward may come in two halves, for which the gradients that the second half reads lie in the frame too.
#include <functional>
#include <span>
#include <vector>

#include "engine/memory.h"
#include "layers/in_fp32.h"
#include "models/graph.h"

namespace pipecast {

// Where each parameter of each node lies, for one flat buffer.
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

// Called after each node with what it was given and has made.
using Visit = std::function<void(const Layer&, const Pass&)>;

class Section {
 public:
  // Nodes [first, last) of the graph, for passes of any of the batch sizes and up to `frames` of them in flight.
  // The layers are prepared for the calling thread's number of threads. split_backward: backward comes in halves; without it
  // there is nothing left for the weight half.
  Section(Device, const Graph&, int first, int last, std::vector<int64_t> batches, int frames, bool split_backward = false);

  // The values that cross the section's borders, in ascending order. A value that is made before the section and read after
  // it is in both. The last section's output is the model's.
  const std::vector<int>& inputs() const { return inputs_; }
  const std::vector<int>& outputs() const { return outputs_; }

  // Places at the borders for a batch size. Input and output of a frame are valid from the receipt to the end of the pass;
  // the gradients from their receipt to the end of the backward (of its input half). Until another pass begins, one that has just ended
  // can therefore run again (a forward as a replay), with the same results.
  Tensor input(int frame, size_t i, int64_t batch) const { return value(frame, inputs_[i], batch); }
  Tensor output(int frame, size_t i, int64_t batch) const { return value(frame, outputs_[i], batch); }
  Tensor output_gradient(int frame, size_t i, int64_t batch) const { return gradient(frame, outputs_[i], batch); }
  Tensor input_gradient(size_t i, int64_t batch) const { return gradient(0, inputs_[i], batch); }  // the same place for all frames

  const Segments& parameters() const { return parameters_; }
  const Segments& statistics() const { return statistics_; }
  Binding bind_parameters(float* base) const { return bind(parameters_, base, &Layer::parameters); }
  Binding bind_statistics(float* base) const { return bind(statistics_, base, &Layer::statistics); }

  void forward(int frame, int64_t batch, const Binding& weights, const Binding& statistics, const PassOptions&, const Visit& = {});
  // Reads the output gradients, accumulates the parameters' gradients, assigns the input gradients. The weight half of a pass comes
  // after its input half, with the same arguments; other passes may run in between, in other frames.
  void backward(int frame, int64_t batch, const Binding& weights, const Binding& gradients, const Binding& statistics, const PassOptions&,
                Half = Half::both, const Visit& = {});

  int64_t frame_floats() const { return frame_floats_; }
  int64_t arena_floats() const { return arena_.size() + shared_.size(); }

 private:
  // Where a value or a gradient lies: in the frame or in the arena; offset -1 where it has no place.
  struct Place {
    int64_t offset = -1;
    bool in_frame = false;
  };
  struct Run {  // a node of the section
    const Node* node;
    bool splits = false;       // its backward comes in halves
    bool in_fp32 = false;      // it is given copies in fp32
    Needs needs = {};          // then, of its own: those copies come after its workspace
    int64_t saved_offset = 0;  // in the frame
    int64_t shared_offset = 0;
    std::vector<bool> adds = {};    // per input: its gradient goes to a spare place and is added to what later readers left
    bool adds_itself = false;       // of the first input: the layer does so
    std::vector<bool> wanted = {};  // per input: somebody wants its gradient
    int maker = -1;                 // the node of the section that makes the first input, where that is left unwritten
  };

  Tensor value(int frame, int value, int64_t batch) const;
  Tensor gradient(int frame, int value, int64_t batch) const;
  float* place(const Place&, int frame) const;
  int64_t place_floats(const Shape& s) const { return aligned(floats_of(device_.storage, s.count())); }
  Needs prepare(Run&, const std::vector<int64_t>& batches);  // sets how the run is given its tensors
  Binding bind(const Segments&, float* base, std::vector<ParameterSpec> (Layer::*of)() const) const;
  Shape shape(int value, int64_t batch) const { return shapes_[value].batch(batch); }
  // Where the value that an input is read from lies: the input itself, or what it is made of.
  Tensor read(const Run&, size_t input, int frame, int64_t batch) const;
  Pass pass(size_t run, int frame, int64_t batch, const Binding& weights, const Binding& statistics, const PassOptions&);

  Device device_;
  int first_, last_;
  std::vector<Shape> shapes_;  // of all values of the graph, n = 1
  std::vector<Run> runs_;
  std::vector<int> inputs_, outputs_;
  Segments parameters_, statistics_;
  std::vector<Place> values_, gradients_;  // by value of the graph
  int64_t frame_floats_ = 0, workspace_offset_ = 0, spare_offset_ = 0;
  Memory frames_, arena_, shared_;  // shared_: Needs::shared of all layers
  std::vector<Tensor> x_, dx_;      // arguments of the pass that runs
  Normalised normalised_;
  InFp32 in_fp32_;
};

}  // namespace pipecast
