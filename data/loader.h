#pragma once
// Mini-batches of normalised, augmented images, made ahead of training by a thread of its own.
//
// The order of an epoch is a pure function of (seed, epoch), and every image's augmentation of (seed, epoch, place in the
// order): whatever is asked first, the same images come.
#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "data/dataset.h"

namespace pipecast {

struct Augmentation {
  bool crop = false;  // pad by 4 with zeros (after normalising, as torchvision's RandomCrop before it pads black), crop back at random
  bool flip = false;  // left to right, half of the time
};
Augmentation parse_augmentation(const std::string&);  // "crop,flip", "crop", "none" or ""; throws UsageError

// Mini-batches of one pass over the pictures. The last one may be short.
class Batches {
 public:
  // shuffle: the order of training; else the order of the files, without augmentation.
  Batches(const Dataset&, const Pictures&, int64_t batch, bool shuffle, Augmentation, uint64_t seed);

  int64_t per_epoch() const;
  int64_t size(int64_t index) const;  // images of mini-batch `index` (counted over all epochs)
  // Labels of mini-batch `index`, into `labels` (size(index) of them).
  void labels(int64_t index, int32_t* labels);
  // Normalised images of mini-batch `index`, NHWC, into `images`.
  void images(int64_t index, float* images);

 private:
  void order(int64_t epoch);  // fills order_ for the epoch

  const Dataset& dataset_;
  const Pictures& pictures_;
  int64_t batch_;
  bool shuffle_;
  Augmentation augmentation_;
  uint64_t seed_;
  int64_t epoch_ = -1;
  std::vector<int32_t> order_;
};

// Images of mini-batches begin, begin + 1, ... end - 1 in turn, prepared ahead by a thread.
class Loader {
 public:
  Loader(Batches batches, int64_t begin, int64_t end, int ahead = 3);
  ~Loader();
  // The images of the next mini-batch; valid until the call after. Throws what the thread threw.
  std::span<const float> next();

 private:
  void work();

  struct Slot {
    std::vector<float> images;
    int64_t index = -1;
  };
  Batches batches_;
  int64_t begin_, end_, produced_, consumed_;
  std::vector<Slot> slots_;
  bool stop_ = false;
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace pipecast
