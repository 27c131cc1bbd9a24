#pragma once
// Plans the memory of a section without allocating any: which tensors are in a frame, which share the arena, and how the backward adds up
// the gradients of a value that several nodes read.
#include <vector>

#include "engine/parameters.h"
#include "layers/layer.h"
#include "pipeline/plan/layout.h"

namespace pipecast {

struct SectionOptions {
  Storage activations = Storage::fp32;  // the type of activations and their gradients
  bool split_backward = false;          // backward comes in halves
};

// The place of a value or a gradient: an offset in floats into the frame or the arena. Offset -1: it has none.
struct Place {
  int64_t offset = -1;
  bool in_frame = false;
};

struct PlannedNode {
  const Node* node = nullptr;
  bool splits = false;       // its backward comes in halves
  bool in_fp32 = false;      // it is given fp32 copies of bf16 tensors
  Needs needs = {};          // the layer's; the fp32 copies are placed behind its workspace
  int64_t saved_offset = 0;  // in the frame
  int64_t shared_offset = 0;
  std::vector<bool> wanted = {};  // per input: whether its gradient is needed
  std::vector<bool> adds = {};    // per input: whether its gradient is written to a spare place, then added to that of later readers
  bool adds_itself = false;       // the layer itself adds to the gradient of its first input (Layer::adds)
  int maker = -1;                 // where the first input is left unwritten: the node that makes it
};

struct SectionPlan {
  int first = 0, last = 0;  // nodes of the graph
  SectionOptions options;
  Borders borders;
  std::vector<SpecTable> tables;  // for each shape of a pass
  std::vector<PlannedNode> nodes;
  Segments parameters, statistics;
  std::vector<Place> values, gradients;  // by value of the graph
  // Floats. The arena holds the workspace of the layers, and before it spare places for gradients that are to be added.
  int64_t frame = 0, spare_offset = 0, workspace_offset = 0, arena = 0, shared = 0;
  int means = 0;  // how many means the loss reports, where the section has the loss

  // Throws Error for a shape that was not planned.
  const std::vector<TensorSpec>& specs(const PassShape&) const;
  // Floats that a value takes at most, rounded up to aligned().
  int64_t most_floats(int value) const;
};

// Nodes [first, last), for passes of any of these shapes. The layers are prepared for the calling thread's number of threads.
SectionPlan plan_section(Device, const Graph&, int first, int last, const std::vector<PassShape>&, const SectionOptions&);

inline int64_t place_floats(const TensorSpec& spec) { return aligned(floats_of(spec.storage, spec.shape.count())); }

}  // namespace pipecast
