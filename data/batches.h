#pragma once
// Mini-batches of samples: which samples, in which order, of which shape.
//
// The order of an epoch is a pure function of (seed, epoch), and a sample's random numbers of (seed, epoch, position in the order). So the
// values do not depend on which mini-batch is asked for first.
#include "data/dataset.h"

namespace pipecast {

struct BatchOptions {
  int64_t batch = 1;     // samples of a mini-batch
  int64_t tokens = 0;    // of sequences: as many samples as have so many positions with their padding, `batch` at the most; 0: `batch`
  bool shuffle = false;  // for training: shuffled and augmented; else in the order of the samples, without augmentation
  Augmentation augmentation = {};
  uint64_t seed = 0;
  bool drop_last = false;  // leaves out short mini-batches, unless nothing would be left
};

// The mini-batches of one epoch after another. Samples of different lengths are put into buckets by length: a mini-batch has samples of one
// bucket, padded to the bucket's length, and the last mini-batch of each bucket may be short. Copies are cheap; each thread uses its own.
class Batches {
 public:
  Batches(std::shared_ptr<const Samples>, const BatchOptions&);

  const Samples& samples() const { return *samples_; }
  int64_t per_epoch() const { return int64_t(batches_.size()); }
  // All shapes that mini-batches have.
  std::vector<PassShape> shapes() const;

  // The shape of mini-batch `index`, counted over all epochs.
  PassShape shape(int64_t index) const;
  int64_t size(int64_t index) const { return shape(index).samples; }

  // The column that a model's input asks for. Throws UsageError where there is none, or one of another shape or type.
  size_t column(const InputSpec&) const;
  // Assigns a column of mini-batch `index`: samples().columns()[column].of(shape(index)).
  void read(int64_t index, size_t column, void* to) const { read(index, column, 0, size(index), to); }
  // Of its samples begin ... end - 1 only: `to` is where all of them begin.
  void read(int64_t index, size_t column, int64_t begin, int64_t end, void* to) const;

 private:
  struct Batch {
    int64_t begin;  // position of its first sample in the order of an epoch
    PassShape shape;
  };

  void begin_epoch(int64_t index) const;
  const Batch& batch(int64_t index) const;

  std::shared_ptr<const Samples> samples_;
  BatchOptions options_;
  std::vector<int32_t> buckets_;      // the samples, bucket by bucket
  std::vector<int64_t> bucket_ends_;  // in buckets_
  std::vector<Batch> batches_;        // of an epoch, bucket by bucket
  // The epoch that was asked for last.
  mutable int64_t epoch_ = -1;
  mutable std::vector<int32_t> order_;          // the samples
  mutable std::vector<int32_t> batches_order_;  // where there are several buckets
};

}  // namespace pipecast
