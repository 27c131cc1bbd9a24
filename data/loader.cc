#include "data/loader.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/error.h"

namespace pipecast {
namespace {

constexpr int64_t samples_at_once = 8;  // for a thread among several
constexpr int64_t most_threads = 16;

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
    : batches_(std::move(batches)), inputs_(inputs), end_(end), claimed_(begin), consumed_(begin), slots_(std::max(ahead, 1) + 1) {
  const std::vector<PassShape> shapes = batches_.shapes();
  slot_floats_ = 0;
  bool long_ones = false;
  for (const InputSpec& input : inputs_) {
    columns_.push_back(batches_.column(input));
    offsets_.push_back(slot_floats_);
    slot_floats_ += most_floats(input, shapes);
    long_ones = long_ones || batches_.samples().takes_long(columns_.back());
  }
  part_ = long_ones ? samples_at_once : std::numeric_limits<int64_t>::max();
  shapes_.resize(size_t(slots_)), left_.resize(size_t(slots_));
  memory_ = HostMemory(device, slots_ * slot_floats_);
  const int64_t threads = long_ones ? std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, most_threads) : 1;
  try {
    for (int64_t i = 0; i < threads; ++i) threads_.emplace_back(&Loader::work, this);
  } catch (...) {
    end_threads();
    throw;
  }
}

Loader::~Loader() { end_threads(); }

void Loader::end_threads() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

// The next part, when there is a slot for it; nothing at the end.
std::optional<Loader::Part> Loader::claim(const Batches& batches) {
  std::unique_lock lock(mutex_);
  // The mini-batch before consumed_ is still being read.
  changed_.wait(lock, [&] { return stop_ || error_ || claimed_ >= end_ || claimed_ - (consumed_ - 1) < slots_; });
  if (stop_ || error_ || claimed_ >= end_) return {};
  const PassShape shape = batches.shape(claimed_);
  const size_t slot = size_t(claimed_ % slots_);
  if (begun_ == 0) shapes_[slot] = shape, left_[slot] = shape.samples;
  const Part part{claimed_, begun_, begun_ + std::min(part_, shape.samples - begun_)};
  begun_ = part.end;
  if (begun_ == shape.samples) ++claimed_, begun_ = 0;
  ++working_;
  return part;
}

void Loader::finish(const Part& part) {
  {
    std::lock_guard lock(mutex_);
    --working_, left_[size_t(part.index % slots_)] -= part.end - part.begin;
  }
  changed_.notify_all();
}

void Loader::work() {
  std::optional<Part> part;  // the one that is being made
  try {
    const Batches batches = batches_;
    while ((part = claim(batches))) {
      for (size_t k = 0; k < columns_.size(); ++k) batches.read(part->index, columns_[k], part->begin, part->end, place(part->index, k));
      finish(*part);
      part.reset();
    }
  } catch (...) {
    {
      std::lock_guard lock(mutex_);
      const std::pair at = part ? std::pair(part->index, part->begin) : std::pair(claimed_, begun_);
      // Parts are claimed in their order: all before the first one that fails are made, and it is always the same one.
      if (!error_ || at < failed_) error_ = std::current_exception(), failed_ = at;
      working_ -= part.has_value();
    }
    changed_.notify_all();
  }
}

PassShape Loader::next() {
  std::unique_lock lock(mutex_);
  if (consumed_ >= end_)
    throw Error("the loader was asked for mini-batch " + std::to_string(consumed_) + ", but it ends before " + std::to_string(end_));
  changed_.wait(lock, [&] { return ready() || (error_ && working_ == 0); });
  if (!ready()) std::rethrow_exception(error_);
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
