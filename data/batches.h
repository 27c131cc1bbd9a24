#pragma once
// Mini-batches of samples: which samples, in which order, of which shape.
//
// The order of an epoch is a pure function of (seed, epoch), and what is random about a sample of (seed, epoch, place in the order):
// whatever is asked first, the same values come.
#include "data/dataset.h"

namespace pipecast {

struct BatchOptions {
  int64_t batch = 1;     // samples of a mini-batch
  bool shuffle = false;  // the order of training; else the order of the samples, without augmentation
  Augmentation augmentation = {};
  uint64_t seed = 0;
  bool drop_last = false;  // leaves out short mini-batches, unless nothing would be left
};

// Mini-batches of one pass over the samples after another. Samples of several lengths are put into buckets by length: a mini-batch has samples
// of one bucket, padded to its length, and the last one of each bucket may be short. A copy is cheap; each thread uses its own.
class Batches {
 public:
  Batches(std::shared_ptr<const Samples>, const BatchOptions&);

  const Samples& samples() const { return *samples_; }
  int64_t per_epoch() const { return int64_t(batches_.size()); }
  // Every shape of a mini-batch that comes.
  std::vector<PassShape> shapes() const;

  // Of mini-batch `index`, counted over all epochs.
  PassShape shape(int64_t index) const;
  int64_t size(int64_t index) const { return shape(index).samples; }

  // The column that a model's input asks for. Throws UsageError where there is none, or one of another shape or type.
  size_t column(const InputSpec&) const;
  // Assigns a column of mini-batch `index`: samples().columns()[column].of(shape(index)).
  void read(int64_t index, size_t column, void* to) const;

 private:
  struct Batch {
    int64_t begin;  // in the order of an epoch
    PassShape shape;
  };

  void begin_epoch(int64_t index) const;
  const Batch& batch(int64_t index) const;

  std::shared_ptr<const Samples> samples_;
  BatchOptions options_;
  std::vector<int32_t> buckets_;      // the samples, bucket by bucket
  std::vector<int64_t> bucket_ends_;  // in buckets_
  std::vector<Batch> batches_;        // of an epoch, bucket by bucket
  // Of the epoch that was asked last.
  mutable int64_t epoch_ = -1;
  mutable std::vector<int32_t> order_;          // the samples
  mutable std::vector<int32_t> batches_order_;  // where there are several buckets
};

}  // namespace pipecast
