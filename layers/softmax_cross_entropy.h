#pragma once
// The loss of a classifier: softmax cross-entropy with label smoothing (Szegedy et al. 2016, as PyTorch defines it).
#include "engine/device.h"
#include "engine/tensor.h"

namespace pipecast {

// logits, dlogits: (rows, 1, 1, classes). target[r] is the class of row r, in [0, classes). The smoothed target is (1 - smoothing) * onehot
// + smoothing / classes. totals[0] += sum of the rows' losses; totals[1] += number of rows whose largest logit is the target's (the first
// of equal ones). row_loss and row_hit: `rows` floats each, assigned.
void softmax_cross_entropy_forward(Device, const Tensor& logits, const int32_t* target, float smoothing, float* row_loss, float* row_hit,
                                   float* totals);
// dlogits = scale * d(sum of the rows' losses) / d(logits): scale = 1 / batch for a mean.
void softmax_cross_entropy_backward(Device, const Tensor& logits, const int32_t* target, float smoothing, float scale,
                                    const Tensor& dlogits);

}  // namespace pipecast
