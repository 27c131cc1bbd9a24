#pragma once
// Mini-batches of normalised, augmented images, made ahead of training by a thread of its own.
//
// The order of an epoch is a pure function of (seed, epoch), and every image's augmentation of (seed, epoch, place in the
// order): whatever is asked first, the same images come.
#include <condition_variable>
#include <exception>
#include <mutex>
#include <span>
#include <thread>

#include "data/dataset.h"
#include "engine/memory.h"

namespace pipecast {

struct Augmentation {
  bool crop = false;  // pad by 4 black pixels on every side (before normalising), then cut out the old size at a random place
  bool flip = false;  // left to right, half of the time
};
Augmentation parse_augmentation(const std::string&);  // "crop,flip", "crop", "none" or ""; throws UsageError

// Mini-batches of one pass over the pictures after another. The last one of a pass may be short. A copy is cheap beside the
// pictures, which must outlive it; each thread uses its own.
class Batches {
 public:
  // shuffle: the order of training; else the order of the files, without augmentation. drop_last: leaves out a short last
  // mini-batch, unless it is the only one.
  Batches(const Dataset&, const Pictures&, int64_t batch, bool shuffle, Augmentation, uint64_t seed, bool drop_last = false);

  const Shape& image() const { return dataset_.image; }
  int64_t per_epoch() const;
  int64_t size(int64_t index) const;  // images of mini-batch `index` (counted over all epochs)
  // Labels of mini-batch `index`, into `labels` (size(index) of them).
  void labels(int64_t index, int32_t* labels);
  // Normalised images of mini-batch `index`, NHWC, into `images`.
  void images(int64_t index, float* images);

 private:
  const int32_t* order(int64_t index);  // the pictures of mini-batch `index`

  const Dataset& dataset_;
  const Pictures& pictures_;
  int64_t batch_;
  bool shuffle_, drop_last_;
  Augmentation augmentation_;
  uint64_t seed_;
  std::vector<float> normalised_;  // channel x 256: what a byte becomes
  int64_t epoch_ = -1;             // whose order order_ holds
  std::vector<int32_t> order_;
};

constexpr int mini_batches_ahead = 3;  // that a loader has ready, beside the one that is being read

// Images of mini-batches begin, begin + 1, ... end - 1 in turn, prepared ahead by a thread.
class Loader {
 public:
  // device: where the images go from here.
  Loader(Batches, int64_t begin, int64_t end, Device device = {}, int ahead = mini_batches_ahead);
  ~Loader();  // at any time: what was not asked for is dropped
  // The images of the next mini-batch; valid until the call after, before which copies of them must be done. Throws what the
  // thread threw.
  std::span<const float> next();

 private:
  void work();
  float* slot(int64_t index) const { return images_.data() + int64_t(uint64_t(index) % uint64_t(slots_)) * slot_floats_; }

  Batches batches_;
  int64_t end_, produced_, consumed_;      // mini-batches before produced_ are ready, those before consumed_ were handed out
  int64_t slots_, slot_floats_;            // one per mini-batch ahead, one for the mini-batch handed out last
  HostMemory images_;
  bool stop_ = false;
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace pipecast
