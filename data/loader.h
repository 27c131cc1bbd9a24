#pragma once
// Columns of mini-batches, made ahead of training by a thread of its own.
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "data/batches.h"
#include "engine/memory.h"

namespace pipecast {

constexpr int mini_batches_ahead = 3;  // how many a loader prepares in advance, beside the one that is being read

// Columns of mini-batches begin, begin + 1, ... end - 1 in turn.
class Loader {
 public:
  // inputs: the model's, which name the columns. device: where they will be copied to. Throws UsageError where the data set lacks a column.
  Loader(Batches, const std::vector<InputSpec>& inputs, int64_t begin, int64_t end, Device device = {}, int ahead = mini_batches_ahead);
  ~Loader();  // may come at any time

  // Goes on to the next mini-batch. Its columns are valid until the next call, before which copies from them must be done. Throws what the
  // loader's thread threw.
  PassShape next();
  // Column k of the current mini-batch: inputs[k].of(its shape), as dense values on the host.
  Tensor column(size_t k) const;

  // Floats of memory that the columns of mini-batches of these shapes take.
  static int64_t memory(const std::vector<InputSpec>&, const std::vector<PassShape>&, int ahead = mini_batches_ahead);

 private:
  void work();
  float* place(int64_t index, size_t k) const { return memory_.data() + index % slots_ * slot_floats_ + offsets_[k]; }

  Batches batches_;
  std::vector<InputSpec> inputs_;
  std::vector<size_t> columns_;    // of the data set, by input
  std::vector<int64_t> offsets_;   // of each input in a slot, in floats
  int64_t end_, produced_, consumed_;  // mini-batches before produced_ are ready, those before consumed_ were handed out
  int64_t slots_, slot_floats_;        // one per mini-batch ahead, one for the mini-batch handed out last
  std::vector<PassShape> shapes_;      // of the mini-batch in each slot
  PassShape shape_;                    // of the mini-batch handed out last
  HostMemory memory_;
  bool stop_ = false;
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace pipecast
