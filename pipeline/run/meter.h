#pragma once
// Measures how good predictions are, on a sample of a stage's weights: the distance between the weights that a forward read and those that
// its backward read, and for comparison the distance between the latest weights at these two moments.
#include "engine/memory.h"

namespace pipecast {

struct PredictionError {
  double with = 0, without = 0;  // sums of squared distances
  // 0: a perfect prediction; 1: no better than not predicting; 0 where nothing moved.
  double relative() const;
};

class PredictionMeter {
 public:
  // `slots` passes in flight over flat buffers of n floats.
  PredictionMeter(Device, int64_t n, int slots);
  // At the forward of a pass, with the weights that it reads and the latest ones.
  void at_forward(Device, int slot, const float* read, const float* latest);
  // At its backward, the same.
  void at_backward(Device, int slot, const float* read, const float* latest);
  // The sums since the last call.
  PredictionError take(Device);
  float* sums() const { return sums_.data(); }  // 2 floats on the device, for a checkpoint

 private:
  int64_t n_, sample_;
  Memory kept_;  // slots x 2 x sample: read, latest
  Memory sums_;  // 2
};

}  // namespace pipecast
