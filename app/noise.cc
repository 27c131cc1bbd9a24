#include "app/noise.h"

#include "data/pictures.h"
#include "engine/random.h"

namespace pipecast {
namespace {

class NoiseSequences : public Samples {
 public:
  NoiseSequences(std::vector<InputSpec> columns, int64_t count, int64_t length, int64_t vocabulary, int64_t classes)
      : columns_(std::move(columns)), count_(count), length_(length), vocabulary_(vocabulary), classes_(classes) {}
  int64_t size() const override { return count_; }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  std::vector<int64_t> lengths() const override { return {length_}; }
  int64_t length(int64_t) const override { return length_; }
  void read(size_t column, const int32_t* samples, int64_t count, const Reading&, void* to) const override {
    const InputSpec& spec = columns_[column];
    const Random random{1, purpose(spec.name), 0};
    const int64_t positions = spec.sequence ? length_ : 1, below = spec.sequence ? vocabulary_ : classes_;
    for (int64_t i = 0; i < count * positions; ++i) {
      const uint64_t element = uint64_t(samples[i / positions] * positions + i % positions);
      static_cast<int32_t*>(to)[i] = spec.name.ends_with("length") ? int32_t(length_) : int32_t(random.below(element, uint32_t(below)));
    }
  }
  void add_to(Sha256&) const override {}

 private:
  std::vector<InputSpec> columns_;
  int64_t count_, length_, vocabulary_, classes_;
};

}  // namespace

std::shared_ptr<const Samples> noise_sequences(const Graph& graph, int64_t count, int64_t length, int64_t vocabulary, int64_t classes) {
  return std::make_shared<NoiseSequences>(graph.inputs(), count, length, vocabulary, classes);
}

Dataset noise_pictures(int64_t count, int64_t side) {
  constexpr int64_t classes = 10;
  PictureSet data{"noise", {1, side, side, 3}, classes, {}, {}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};
  const Random random{1, purpose("bench"), 0};
  data.train.labels.resize(size_t(count)), data.train.pixels.resize(size_t(count * data.image.count()));
  for (size_t i = 0; i < data.train.labels.size(); ++i) data.train.labels[i] = int32_t(random.below(i, classes));
  for (size_t i = 0; i < data.train.pixels.size(); ++i) data.train.pixels[i] = uint8_t(random.below(i, 256));
  return dataset_of(std::move(data));
}

}  // namespace pipecast
