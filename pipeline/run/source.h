#pragma once
// Feeds a chunk from the data set: loads the columns that its section asks for by name, ahead of time, cuts them into micro-batches and
// copies them to the device. Where the section ends with the loss, the source also computes the denominator of its mean.
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

  // The denominators of the loss's means in the pass that was loaded last; empty where the section has no loss.
  std::span<const double> counts() const { return {counts_.data(), counts_.size()}; }
  int64_t memory() const { return wide_.size(); }  // floats on the device

 private:
  void copy_column(size_t k, const Tensor& to, int64_t first_sample);
  void count(const Section&, const PassShape&, int64_t first_sample, int64_t samples);

  Device device_;
  std::vector<int> values_;        // values of the graph that come from the data set
  std::vector<InputSpec> inputs_;  // their specs
  const Node* loss_ = nullptr;
  std::unique_ptr<Loader> loader_;
  PassShape minibatch_;
  bool counted_ = false;       // scale_ is set for this mini-batch
  std::vector<Tensor> x_;      // inputs of the loss, on the host
  std::vector<double> counts_;
  HostMemory scale_;           // 1 / the mini-batch's count of the loss
  Memory wide_;                // values of a pass in fp32, before they are rounded to how they are stored
  Event uploaded_;             // the copies so far are done: the host may overwrite what they read
};

}  // namespace pipecast
