#include "data/batches.h"

#include <algorithm>
#include <numeric>

#include "engine/error.h"
#include "engine/random.h"

namespace pipecast {
namespace {

// Fisher and Yates: element i is swapped with one of those up to it, from the last one down.
void shuffle(const Random& random, int32_t* begin, int64_t count) {
  for (int64_t i = count - 1; i > 0; --i) std::swap(begin[i], begin[random.below(uint64_t(i), uint32_t(i + 1))]);
}

}  // namespace

Batches::Batches(std::shared_ptr<const Samples> samples, const BatchOptions& options) : samples_(std::move(samples)), options_(options) {
  const int64_t size = samples_->size(), batch = std::min(options_.batch, size);
  if (options_.batch < 1) throw UsageError("batch size " + std::to_string(options_.batch) + " is not possible; it must be at least 1");
  if (size == 0) throw UsageError("the data set has no samples here; at least one is needed");
  if (options_.shuffle) samples_->check(options_.augmentation);
  else options_.augmentation = {};

  const std::vector<int64_t> lengths = samples_->lengths();
  std::vector<std::vector<int32_t>> buckets(lengths.size());
  for (int64_t i = 0; i < size; ++i) {
    const auto bucket = std::lower_bound(lengths.begin(), lengths.end(), samples_->length(i));
    if (bucket == lengths.end())
      throw UsageError("sample " + std::to_string(i) + " has " + std::to_string(samples_->length(i)) +
                       " positions, more than the longest mini-batch: the last of the data set's lengths must hold each of its samples");
    buckets[size_t(bucket - lengths.begin())].push_back(int32_t(i));
  }
  std::vector<Batch> shorter;
  for (size_t b = 0; b < buckets.size(); ++b) {
    if (buckets[b].empty()) continue;
    const int64_t fitting = options_.tokens > 0 ? std::max<int64_t>(options_.tokens / lengths[b], 1) : batch,
                  most = std::min(batch, fitting);
    const int64_t begin = int64_t(buckets_.size()), end = begin + int64_t(buckets[b].size());
    buckets_.insert(buckets_.end(), buckets[b].begin(), buckets[b].end());
    bucket_ends_.push_back(end);
    for (int64_t at = begin; at < end; at += most) {
      const Batch made{at, {std::min(most, end - at), lengths[b]}};
      (options_.drop_last && made.shape.samples < most ? shorter : batches_).push_back(made);
    }
  }
  if (batches_.empty()) batches_ = std::move(shorter);
}

std::vector<PassShape> Batches::shapes() const {
  std::vector<PassShape> shapes;
  for (const Batch& batch : batches_)
    if (std::find(shapes.begin(), shapes.end(), batch.shape) == shapes.end()) shapes.push_back(batch.shape);
  return shapes;
}

void Batches::begin_epoch(int64_t index) const {
  if (index < 0) throw Error("mini-batch " + std::to_string(index) + " does not exist; they are counted from 0");
  const int64_t epoch = index / per_epoch();
  if (epoch == epoch_) return;
  order_ = buckets_;
  batches_order_.resize(batches_.size());
  std::iota(batches_order_.begin(), batches_order_.end(), 0);
  if (options_.shuffle) {
    const Random random{options_.seed, purpose("order"), uint64_t(epoch)};
    int64_t begin = 0;
    for (int64_t end : bucket_ends_) shuffle(random, order_.data() + begin, end - begin), begin = end;
    if (bucket_ends_.size() > 1)
      shuffle({options_.seed, purpose("order of mini-batches"), uint64_t(epoch)}, batches_order_.data(), per_epoch());
  }
  epoch_ = epoch;
}

const Batches::Batch& Batches::batch(int64_t index) const {
  if (bucket_ends_.size() == 1 && index >= 0) return batches_[size_t(index % per_epoch())];
  begin_epoch(index);
  return batches_[size_t(batches_order_[size_t(index % per_epoch())])];
}

PassShape Batches::shape(int64_t index) const { return batch(index).shape; }

size_t Batches::column(const InputSpec& wanted) const {
  std::string known;
  const std::vector<InputSpec>& columns = samples_->columns();
  for (size_t k = 0; k < columns.size(); ++k) {
    const InputSpec& column = columns[k];
    known += (known.empty() ? "" : ", ") + column.name;
    if (column.name != wanted.name) continue;
    const TensorSpec &has = column.sample, &asks = wanted.sample;
    if (column.sequence == wanted.sequence && has.storage == asks.storage && (has.shape == asks.shape || column.sequence)) return k;
    throw UsageError("the model's input '" + wanted.name + "' is " + to_string(asks.shape) + " " + to_string(asks.storage) +
                     " per sample and the data set's column is " + to_string(has.shape) + " " + to_string(has.storage) +
                     ": make the model for this data set");
  }
  throw UsageError("the model has an input '" + wanted.name + "' and the data set has the columns " + known +
                   ": choose a data set or a model of the other kind");
}

void Batches::read(int64_t index, size_t column, int64_t begin, int64_t end, void* to) const {
  begin_epoch(index);
  const Batch& of = batch(index);
  // Every type has elements of 4 bytes on the host.
  const int64_t bytes = 4 * samples_->columns()[column].of({1, of.shape.length}).shape.count();
  const int64_t first = of.begin + begin, next = (of.begin + end) % int64_t(order_.size());
  samples_->read(column, order_.data() + first, end - begin,
                 {of.shape.length, options_.augmentation, options_.seed, epoch_, first, order_[size_t(next)], next},
                 static_cast<char*>(to) + begin * bytes);
}

}  // namespace pipecast
