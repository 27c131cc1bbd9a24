#pragma once
// The weights of one stage: named segments of flat buffers, and at most two copies of them.
#include <cstdint>
#include <string>
#include <vector>

#include "engine/memory.h"

namespace pipecast {

// How a parameter begins: constant value, normal with standard deviation `scale`, or uniform in [-scale, scale].
struct Initial {
  enum Kind { constant, normal, uniform } kind = constant;
  float scale = 0;
};

// A tensor that a layer owns. Shapes are as stored: [O,H,W,I] for convolutions, [out,in] for linear layers, [c] for vectors.
// In files a four-dimensional tensor is [O,I,H,W], as torchvision has it.
struct ParameterSpec {
  std::string name;  // within its layer: "weight"; within a model: "layer1.0.conv1.weight"
  std::vector<int64_t> shape;
  Initial initial;
  bool counter = false;  // a number of steps, an integer in files (batch norm's num_batches_tracked)
  std::string tied = {};  // full name of the parameter of an earlier layer that this one is: both layers read it and add to its gradient

  int64_t count() const {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    return n;
  }
};

// Where each spec lies in a flat buffer, in floats; every segment starts aligned.
struct Segments {
  std::vector<ParameterSpec> specs;
  std::vector<int64_t> offsets;
  int64_t total = 0;

  void add(ParameterSpec spec);
  int find(std::string_view name) const;  // -1 where there is none
};

// Fills `host` (segments.total floats) with the initial values: a pure function of (seed, full name, element),
// so that a model begins the same however it is partitioned.
void initialize(const Segments&, uint64_t seed, float* host);

// The two copies. Two is the limit by type: the latest weights, and one other, which a method uses for predicted weights.
// Nothing is ever copied back to restore: a pass is handed the copy that it is to read.
class ParameterStore {
 public:
  ParameterStore() = default;
  ParameterStore(Device, Segments, bool second_copy);

  const Segments& segments() const { return segments_; }
  float* latest() const { return latest_.data(); }
  float* other() const { return other_.data(); }  // null where the method needs one copy only
  float* gradient() const { return gradient_.data(); }
  int copies() const { return other_.data() ? 2 : 1; }

 private:
  Segments segments_;
  Memory latest_, other_, gradient_;
};

}  // namespace pipecast
