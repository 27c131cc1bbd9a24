#include "data/columns.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "engine/error.h"
#include "engine/files/sha256.h"

namespace pipecast {

void WholeNumbers::copy(int64_t begin, int64_t count, int32_t* to) const {
  if (bytes_ == 4) {
    std::memcpy(to, data_ + 4 * begin, size_t(4 * count));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t value;
    std::memcpy(&value, data_ + 2 * (begin + i), sizeof value);
    to[i] = value;
  }
}

namespace {

using Ends = std::vector<int64_t>;  // of each sample, in the values of a sequence

std::vector<int64_t> doubling_up_to(int64_t longest) {
  std::vector<int64_t> lengths;
  for (int64_t length = 16; length < longest; length *= 2) lengths.push_back(length);
  lengths.push_back(std::max<int64_t>(longest, 1));
  return lengths;
}

class ColumnSamples : public Samples {
 public:
  ColumnSamples(std::vector<Column> columns, std::vector<int64_t> lengths, std::shared_ptr<const void> owner, const std::string& origin)
      : columns_(std::move(columns)), lengths_(std::move(lengths)), owner_(std::move(owner)) {
    if (columns_.empty()) throw UsageError(origin + " has no columns; it needs at least one");
    for (const Column& column : columns_) {
      const TensorSpec number({1, 1, 1, 1}, Storage::int32);
      specs_.push_back({column.name, number, !column.length.empty()});
      if (column.length.empty()) check_size(column, origin);
      else if (!ends_.count(column.length)) ends_[column.length] = ends_of(column, origin);
    }
    for (const Column& column : columns_) {
      ends_of_column_.push_back(column.length.empty() ? nullptr : &ends_[column.length]);
      if (column.length.empty()) continue;
      const int64_t of_samples = size_ > 0 ? ends_of_column_.back()->back() : 0;
      if (of_samples != column.values.size())
        throw UsageError(origin + ": column '" + column.name + "' has " + std::to_string(column.values.size()) +
                         " values and its lengths, column '" + column.length + "', add up to " + std::to_string(of_samples) +
                         "; they must agree");
    }
    if (!lengths_.empty()) return;
    int64_t longest = 1;
    for (int64_t i = 0; i < size_; ++i) longest = std::max(longest, length(i));
    lengths_ = ends_.empty() ? std::vector<int64_t>{1} : doubling_up_to(longest);
  }

  int64_t size() const override { return size_; }
  const std::vector<InputSpec>& columns() const override { return specs_; }
  std::vector<int64_t> lengths() const override { return lengths_; }
  int64_t length(int64_t sample) const override {
    int64_t longest = ends_.empty() ? 1 : 0;
    for (const auto& [name, ends] : ends_) longest = std::max(longest, ends[size_t(sample)] - begin_of(ends, sample));
    return longest;
  }

  void read(size_t column, const int32_t* samples, int64_t count, const Reading& reading, void* to) const override {
    int32_t* values = static_cast<int32_t*>(to);
    const Column& from = columns_[column];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t sample = samples[i];
      if (const Ends* ends = ends_of_column_[column]) {
        const int64_t begin = begin_of(*ends, sample), own = (*ends)[size_t(sample)] - begin;
        int32_t* row = values + i * reading.length;
        from.values.copy(begin, own, row);
        std::fill(row + own, row + reading.length, from.padding);
      } else {
        values[i] = from.values[sample];
      }
    }
  }
  void check(const Augmentation& augmentation) const override {
    if (augmentation.any()) throw UsageError("texts are not augmented, pictures are: leave --augment out");
  }
  void add_to(Sha256& digest) const override {
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (ends_.count(columns_[c].name)) continue;  // the ends say the same
      add_values(columns_[c].values, digest);
      if (ends_of_column_[c]) digest.add(ends_of_column_[c]->data(), ends_of_column_[c]->size() * sizeof(int64_t));
    }
  }

 private:
  static int64_t begin_of(const Ends& ends, int64_t sample) { return sample > 0 ? ends[size_t(sample) - 1] : 0; }

  static void add_values(const WholeNumbers& values, Sha256& digest) {
    int32_t some[1024];
    for (int64_t begin = 0; begin < values.size(); begin += 1024) {
      const int64_t count = std::min<int64_t>(1024, values.size() - begin);
      values.copy(begin, count, some);
      digest.add(some, size_t(count) * sizeof(int32_t));
    }
  }

  void check_size(const Column& column, const std::string& origin) {
    if (size_ < 0) size_ = column.values.size(), first_ = column.name;
    if (column.values.size() != size_)
      throw UsageError(origin + ": column '" + first_ + "' has " + std::to_string(size_) + " samples and column '" + column.name +
                       "' has " + std::to_string(column.values.size()) + "; they must agree");
  }

  Ends ends_of(const Column& column, const std::string& origin) {
    const auto found = std::find_if(columns_.begin(), columns_.end(), [&](const Column& c) { return c.name == column.length; });
    if (found == columns_.end() || !found->length.empty())
      throw UsageError(origin + ": the sequence '" + column.name + "' needs the column '" + column.length + "', a length for each sample");
    Ends ends;
    int64_t end = 0;
    for (int64_t i = 0; i < found->values.size(); ++i) {
      const int64_t length = found->values[i];
      if (length < 0 || length > most_positions)
        throw UsageError(origin + ": sample " + std::to_string(i) + " has the length " + std::to_string(length) + " in column '" +
                         column.length + "'; it must be 0 to " + std::to_string(most_positions));
      ends.push_back(end += length);
    }
    return ends;
  }

  std::vector<Column> columns_;
  std::vector<InputSpec> specs_;
  std::map<std::string, Ends> ends_;         // by the name of the column of lengths
  std::vector<const Ends*> ends_of_column_;  // null: a value per sample
  std::vector<int64_t> lengths_;
  std::shared_ptr<const void> owner_;
  int64_t size_ = -1;
  std::string first_;  // the column that said so
};

}  // namespace

std::shared_ptr<const Samples> column_samples(std::vector<Column> columns, std::vector<int64_t> lengths, std::shared_ptr<const void> owner,
                                              const std::string& origin) {
  return std::make_shared<ColumnSamples>(std::move(columns), std::move(lengths), std::move(owner), origin);
}

}  // namespace pipecast
