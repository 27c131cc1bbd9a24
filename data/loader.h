#pragma once
// Columns of mini-batches, made ahead of training by threads of its own. What a sample becomes depends on its place alone, so the number of
// threads changes nothing.
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "data/batches.h"
#include "engine/memory.h"

namespace pipecast {

constexpr int mini_batches_ahead = 3;  // how many a loader prepares in advance, beside the one that is being read

// Columns of mini-batches begin, begin + 1, ... end - 1 in turn.
class Loader {
 public:
  // inputs: the model's, which name the columns. device: where they will be copied to. One thread reads whole mini-batches; where a column
  // takes long (Samples::takes_long), a thread per processor reads a few samples at a time. Throws UsageError where the data set lacks a
  // column.
  Loader(Batches, const std::vector<InputSpec>& inputs, int64_t begin, int64_t end, Device device = {}, int ahead = mini_batches_ahead);
  ~Loader();  // may come at any time

  // Goes on to the next mini-batch. Its columns are valid until the next call, before which copies from them must be done. Throws what the
  // loader's threads threw, in the order of the mini-batches.
  PassShape next();
  // Column k of the current mini-batch: inputs[k].of(its shape), as dense values on the host.
  Tensor column(size_t k) const;

  // Floats of memory that the columns of mini-batches of these shapes take.
  static int64_t memory(const std::vector<InputSpec>&, const std::vector<PassShape>&, int ahead = mini_batches_ahead);

 private:
  // Some samples of a mini-batch.
  struct Part {
    int64_t index, begin, end;
  };
  void work();
  std::optional<Part> claim(const Batches&);
  void finish(const Part&);
  void end_threads();
  bool ready() const { return consumed_ < claimed_ && left_[size_t(consumed_ % slots_)] == 0; }
  float* place(int64_t index, size_t k) const { return memory_.data() + index % slots_ * slot_floats_ + offsets_[k]; }

  Batches batches_;
  std::vector<InputSpec> inputs_;
  std::vector<size_t> columns_;    // of the data set, by input
  std::vector<int64_t> offsets_;   // of each input in a slot, in floats
  int64_t end_, claimed_, consumed_;   // mini-batches before claimed_ are made or being made, those before consumed_ were handed out
  int64_t part_, begun_ = 0;           // samples that a thread takes at once; those of mini-batch claimed_ that are being made
  int64_t slots_, slot_floats_;        // one per mini-batch ahead, one for the mini-batch handed out last
  std::vector<int64_t> left_;          // samples of the mini-batch in each slot that are not made yet
  std::vector<PassShape> shapes_;      // of the mini-batch in each slot
  PassShape shape_;                    // of the mini-batch handed out last
  HostMemory memory_;
  bool stop_ = false;
  std::exception_ptr error_;
  std::pair<int64_t, int64_t> failed_;  // index and begin of the part that threw it, the first one of all
  int working_ = 0;                     // threads that make a part
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace pipecast
