#pragma once
// What each layer of a model costs within a pass of the whole model on one stage, measured here and now.
#include <string>
#include <vector>

#include "models/graph.h"
#include "pipeline/run/section.h"

namespace pipecast {

// One direction of a layer.
struct LayerPass {
  double seconds = 0;  // the median of several runs
  double flops = 0;    // multiplications and additions of the sums as they are defined; an algorithm may take fewer
  double bytes = 0;    // the least that has to move: every tensor that is read, and every one that is written, once
};

struct LayerTimes {
  std::string name, kind;
  std::string implementation;  // Layer::implementation()
  LayerPass forward, backward;
};

struct ModelTimes {
  std::vector<LayerTimes> layers;    // in the order of the nodes
  double forward = 0, backward = 0;  // seconds of whole passes: the layers, and the sums of gradients that meet between them
};

// A training pass of `batch` samples with the calling thread's number of threads. The layers run where they lie in a stage, one after
// another: what one leaves in the caches the next one finds there.
ModelTimes measure_layers(const Graph&, const PassShape&, const std::string& device);

// Sets the inputs of a section that are lengths of sequences (int32, a number per sample, named "length" or "..._length") to that of the
// pass: at 0, recurrence and attention would have nothing to do.
void fill_lengths(Device, const Graph&, const Section&, const PassShape&);

// Multiplications and additions of a training step of this shape: a forward, and of each product in it the two of the backward, but
// the gradient of the model's input, which is not needed.
double training_flops(const Graph&, const PassShape&);

}  // namespace pipecast
