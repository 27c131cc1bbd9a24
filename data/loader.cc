#include "data/loader.h"

#include <algorithm>
#include <utility>

#include "engine/error.h"

namespace pipecast {
namespace {

// Floats that an input takes in the largest of these shapes; every type has elements of 4 bytes on the host.
int64_t most_floats(const InputSpec& input, const std::vector<PassShape>& shapes) {
  int64_t most = 0;
  for (const PassShape& shape : shapes) most = std::max(most, aligned(input.of(shape).shape.count()));
  return most;
}

}  // namespace

int64_t Loader::memory(const std::vector<InputSpec>& inputs, const std::vector<PassShape>& shapes, int ahead) {
  int64_t floats = 0;
  for (const InputSpec& input : inputs) floats += most_floats(input, shapes);
  return (std::max(ahead, 1) + 1) * floats;
}

Loader::Loader(Batches batches, const std::vector<InputSpec>& inputs, int64_t begin, int64_t end, Device device, int ahead)
    : batches_(std::move(batches)), inputs_(inputs), end_(end), produced_(begin), consumed_(begin), slots_(std::max(ahead, 1) + 1) {
  const std::vector<PassShape> shapes = batches_.shapes();
  slot_floats_ = 0;
  for (const InputSpec& input : inputs_) {
    columns_.push_back(batches_.column(input));
    offsets_.push_back(slot_floats_);
    slot_floats_ += most_floats(input, shapes);
  }
  shapes_.resize(size_t(slots_));
  memory_ = HostMemory(device, slots_ * slot_floats_);
  thread_ = std::thread(&Loader::work, this);
}

Loader::~Loader() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Loader::work() {
  try {
    for (int64_t index = produced_; index < end_; ++index) {
      {
        std::unique_lock lock(mutex_);
        // The mini-batch before consumed_ is still being read.
        changed_.wait(lock, [&] { return stop_ || index - (consumed_ - 1) < slots_; });
        if (stop_) return;
      }
      shapes_[size_t(index % slots_)] = batches_.shape(index);
      for (size_t k = 0; k < columns_.size(); ++k) batches_.read(index, columns_[k], place(index, k));
      {
        std::lock_guard lock(mutex_);
        produced_ = index + 1;
      }
      changed_.notify_all();
    }
  } catch (...) {
    {
      std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    changed_.notify_all();
  }
}

PassShape Loader::next() {
  std::unique_lock lock(mutex_);
  if (consumed_ >= end_)
    throw Error("the loader was asked for mini-batch " + std::to_string(consumed_) + ", but it ends before " + std::to_string(end_));
  changed_.wait(lock, [&] { return produced_ > consumed_ || error_; });
  if (produced_ == consumed_) std::rethrow_exception(error_);
  const int64_t index = consumed_++;
  lock.unlock();
  changed_.notify_all();
  return shape_ = shapes_[size_t(index % slots_)];
}

Tensor Loader::column(size_t k) const {
  const TensorSpec spec = inputs_[k].of(shape_);
  return {place(consumed_ - 1, k), spec.shape, spec.storage};
}

}  // namespace pipecast
