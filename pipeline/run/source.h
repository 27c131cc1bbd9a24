#pragma once
// What a chunk reads of the data set: the columns that its section asks for by name, read ahead, cut into micro-batches and copied to the
// device. Where the section ends with the loss, the source also knows what the loss is a mean over.
#include <memory>
#include <span>

#include "data/loader.h"
#include "pipeline/run/section.h"

namespace pipecast {

class Source {
 public:
  Source(Device, const Graph&, const Section&);

  // Mini-batches [begin, end) follow, counted over the whole training. Throws UsageError where the data set lacks a column.
  void begin(const Batches&, int64_t begin, int64_t end);
  bool empty() const { return inputs_.empty(); }
  const std::vector<InputSpec>& inputs() const { return inputs_; }  // by Section::fed()
  // Goes on to the next mini-batch; before the first load of each. Waits for the copies of the one before.
  void next();
  // Copies the inputs of a pass of this shape, the current mini-batch's samples from `first_sample` on, to their places in the frame.
  void load(const Section&, int frame, int64_t first_sample, const PassShape&);

  // Of the loss: what each of its means is taken over in the pass that was loaded last; empty elsewhere.
  std::span<const double> counts() const { return {counts_.data(), counts_.size()}; }
  int64_t memory() const { return wide_.size(); }  // floats on the device

 private:
  void copy_column(size_t k, const Tensor& to, int64_t first_sample);
  void count(const Section&, const PassShape&, int64_t first_sample, int64_t samples);

  Device device_;
  std::vector<int> values_;        // of the graph, that are fed
  std::vector<InputSpec> inputs_;  // what they are
  const Node* loss_ = nullptr;
  std::unique_ptr<Loader> loader_;
  PassShape minibatch_;
  bool counted_ = false;       // scale_ is that of the mini-batch
  std::vector<Tensor> x_;      // of the loss, on the host
  std::vector<double> counts_;
  HostMemory scale_;           // 1 / the mini-batch's count of the loss
  Memory wide_;                // fp32 values of a pass that are stored otherwise
  Event uploaded_;             // the copies so far: then the host may write to their places again
};

}  // namespace pipecast
