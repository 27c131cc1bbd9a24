#pragma once
// Mini-batches of pictures that a test holds itself.
#include "data/batches.h"
#include "data/pictures.h"

namespace pipecast::testing {

// The pictures and their set must outlive it.
struct PictureBatches : Batches {
  PictureBatches(const PictureSet& set, const Pictures& pictures, int64_t batch, bool shuffle, Augmentation augmentation, uint64_t seed,
                 bool drop_last = false)
      : Batches(picture_samples(set, pictures),
                {.batch = batch, .shuffle = shuffle, .augmentation = augmentation, .seed = seed, .drop_last = drop_last}) {}
  void images(int64_t index, float* to) const { read(index, 0, to); }
  void labels(int64_t index, int32_t* to) const { read(index, 1, to); }
};

// The images alone, read ahead.
inline std::vector<InputSpec> only_images(const PictureSet& set) { return {{"image", set.image}}; }

}  // namespace pipecast::testing
