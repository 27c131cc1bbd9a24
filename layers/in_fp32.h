#pragma once
// Passes of a layer that computes in fp32 only (see Needs::bf16) over tensors that are stored in bf16: it is given fp32 copies of what it
// reads, and what it writes is rounded; tensors that are not bf16 it is given as they are. So bf16 asks nothing of a layer; one that memory
// bounds has kernels that read and write it.
#include <vector>

#include "layers/layer.h"

namespace pipecast {

class InFp32 {
 public:
  // The workspace for copies of a layer's inputs, its output and all their gradients, beside what the layer needs itself.
  static int64_t floats(std::span<const TensorSpec> x, const TensorSpec& y);  // as they are stored

  // needs: what the layer's prepare() said. pass.workspace: its own, aligned, then those copies; what backward does not read is not copied.
  void forward(Layer&, const Pass& pass, const Needs& needs);
  void backward(Layer&, const Pass& pass, const Needs& needs);

 private:
  Tensor place(const Tensor& of);  // for the copy, without values; null for null
  Tensor copy(const Tensor& of);
  void round(const Tensor& wide, const Tensor& to);  // what the layer wrote
  Pass begin(const Pass& pass, const Needs& needs, bool reads_input);

  Device device_;
  float* next_ = nullptr;  // where the next copy goes
  std::vector<Tensor> x_, dx_;
};

}  // namespace pipecast
