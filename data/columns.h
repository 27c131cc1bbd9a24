#pragma once
// Samples whose columns are whole numbers: tokens, lengths, labels. They lie in memory, or in a file of columns (docs/data.md).
#include <span>

#include "data/dataset.h"

namespace pipecast {

constexpr int64_t most_positions = 1 << 20;  // of a sample

// Whole numbers where they lie, at any address: int32, or 16 bits without a sign.
class WholeNumbers {
 public:
  WholeNumbers() = default;
  explicit WholeNumbers(std::span<const int32_t> values) : WholeNumbers(values.data(), int64_t(values.size()), 4) {}
  // bytes: of a number, 2 or 4.
  WholeNumbers(const void* data, int64_t size, int bytes) : data_(static_cast<const uint8_t*>(data)), size_(size), bytes_(bytes) {}

  int64_t size() const { return size_; }
  void copy(int64_t begin, int64_t count, int32_t* to) const;
  int32_t operator[](int64_t i) const {
    int32_t value;
    copy(i, 1, &value);
    return value;
  }

 private:
  const uint8_t* data_ = nullptr;
  int64_t size_ = 0;
  int bytes_ = 4;
};

struct Column {
  std::string name;
  WholeNumbers values;      // of all samples, one sample after another
  std::string length = {};  // of a sequence: the column that has each sample's number of values; empty: a sample has one value
  int32_t padding = 0;      // of a sequence: what follows a sample's values in a mini-batch
};

// lengths: see Samples::lengths(); empty: 16, 32, 64 ... up to what the longest sample needs. A sample is as long as its longest sequence.
// owner: of the memory. Throws UsageError, its sentence beginning with `origin`, for columns that do not fit together.
std::shared_ptr<const Samples> column_samples(std::vector<Column>, std::vector<int64_t> lengths, std::shared_ptr<const void> owner,
                                              const std::string& origin);

// A file of columns.
struct ColumnFile {
  std::shared_ptr<const Samples> samples;
  int64_t vocabulary = 0, classes = 0;  // 0: the file has no sequence, or no labels
  std::vector<std::string> class_names;
};
// bytes: of the file; `owner` keeps them. Throws UsageError that names the file and the defect.
ColumnFile column_file(std::span<const uint8_t> bytes, std::shared_ptr<const void> owner, const std::string& origin);

Dataset load_columns(const std::string& directory, const DataOptions&);  // DIR/train.safetensors and DIR/test.safetensors

}  // namespace pipecast
