#include "data/loader.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/error.h"
#include "engine/random.h"

namespace pipecast {

Augmentation parse_augmentation(const std::string& list) {
  Augmentation augmentation;
  if (list.empty() || list == "none") return augmentation;
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = list.find(',', begin);
    const std::string name = list.substr(begin, end - begin);
    if (name == "crop") augmentation.crop = true;
    else if (name == "flip") augmentation.flip = true;
    else if (name == "none") throw UsageError("augmentation '" + list + "': 'none' excludes all others; leave it out or write it alone");
    else throw UsageError(unknown_name("augmentation", name, {"crop", "flip", "none"}));
  }
  return augmentation;
}

Batches::Batches(const Dataset& dataset, const Pictures& pictures, int64_t batch, bool shuffle, Augmentation augmentation, uint64_t seed,
                 bool drop_last)
    : dataset_(dataset),
      pictures_(pictures),
      batch_(batch),
      shuffle_(shuffle),
      drop_last_(drop_last),
      augmentation_(shuffle ? augmentation : Augmentation{}),
      seed_(seed),
      order_(size_t(pictures.size())) {
  if (batch < 1) throw UsageError("batch size " + std::to_string(batch) + " is not possible; it must be at least 1");
  if (pictures.size() == 0) throw UsageError("data set " + dataset.name + " has no pictures here; at least one is needed");
  for (int64_t c = 0; c < dataset.image.c; ++c)
    for (int byte = 0; byte < 256; ++byte)
      normalised_.push_back((float(byte) / 255 - dataset.mean[size_t(c)]) / dataset.deviation[size_t(c)]);
}

int64_t Batches::per_epoch() const {
  return drop_last_ && pictures_.size() >= batch_ ? pictures_.size() / batch_ : (pictures_.size() - 1) / batch_ + 1;
}

int64_t Batches::size(int64_t index) const { return std::min(batch_, pictures_.size() - index % per_epoch() * batch_); }

const int32_t* Batches::order(int64_t index) {
  if (index < 0) throw Error("mini-batch " + std::to_string(index) + " does not exist; they are counted from 0");
  const int64_t epoch = index / per_epoch();
  if (epoch != epoch_) {
    std::iota(order_.begin(), order_.end(), 0);
    if (shuffle_) {
      const Random random{seed_, purpose("order"), uint64_t(epoch)};
      for (size_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[random.below(i, uint32_t(i + 1))]);
    }
    epoch_ = epoch;
  }
  return order_.data() + index % per_epoch() * batch_;
}

void Batches::labels(int64_t index, int32_t* labels) {
  const int32_t* pictures = order(index);
  for (int64_t i = 0; i < size(index); ++i) labels[i] = pictures_.labels[size_t(pictures[i])];
}

void Batches::images(int64_t index, float* images) {
  const int32_t* pictures = order(index);
  const Random random{seed_, purpose("augment"), uint64_t(epoch_)};
  const int64_t height = dataset_.image.h, width = dataset_.image.w, channels = dataset_.image.c;
  for (int64_t i = 0; i < size(index); ++i, images += dataset_.image.count()) {
    const uint8_t* picture = pictures_.pixels.data() + pictures[i] * dataset_.image.count();
    // Random numbers belong to the place in the epoch, so that no image depends on the batch size.
    const uint64_t element = 4 * uint64_t(pictures + i - order_.data());
    const int64_t down = augmentation_.crop ? int64_t(random.below(element, 9)) - 4 : 0;
    const int64_t right = augmentation_.crop ? int64_t(random.below(element + 1, 9)) - 4 : 0;
    const bool mirrored = augmentation_.flip && random.below(element + 2, 2) == 1;
    // Pixel (y, x) of the image is (y + down, x + right) of the picture, or black where that is outside.
    const int64_t begin = std::clamp<int64_t>(-right, 0, width), end = std::clamp<int64_t>(width - right, begin, width);
    for (int64_t y = 0; y < height; ++y) {
      const bool within = y + down >= 0 && y + down < height;
      const int64_t from = within ? begin : width, to = within ? end : width;
      const int64_t step = mirrored ? -channels : channels;
      for (int64_t c = 0; c < channels; ++c) {
        const float* table = normalised_.data() + 256 * c;
        const int64_t in = ((y + down) * width + right) * channels + c;
        float* out = images + (y * width + (mirrored ? width - 1 : 0)) * channels + c;
        for (int64_t x = 0; x < from; ++x) out[x * step] = table[0];
        for (int64_t x = from; x < to; ++x) out[x * step] = table[picture[in + x * channels]];
        for (int64_t x = to; x < width; ++x) out[x * step] = table[0];
      }
    }
  }
}

Loader::Loader(Batches batches, int64_t begin, int64_t end, Device device, int ahead)
    : batches_(std::move(batches)),
      end_(end),
      produced_(begin),
      consumed_(begin),
      slots_(std::max(ahead, 1) + 1),
      slot_floats_(aligned(batches_.size(0) * batches_.image().count())),
      images_(device, slots_ * slot_floats_) {
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
      batches_.images(index, slot(index));
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

std::span<const float> Loader::next() {
  int64_t index;
  {
    std::unique_lock lock(mutex_);
    if (consumed_ >= end_)
      throw Error("the loader was asked for mini-batch " + std::to_string(consumed_) + ", but it ends before " + std::to_string(end_));
    changed_.wait(lock, [&] { return produced_ > consumed_ || error_; });
    if (produced_ == consumed_) std::rethrow_exception(error_);
    index = consumed_++;
  }
  changed_.notify_all();
  return {slot(index), size_t(batches_.size(index) * batches_.image().count())};
}

}  // namespace pipecast
