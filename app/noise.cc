#include "app/noise.h"

#include <span>

#include "data/columns.h"
#include "data/pictures.h"
#include "engine/random.h"

namespace pipecast {

Dataset noise_pictures(int64_t count, int64_t side) {
  constexpr int64_t classes = 10;
  PictureSet data{"noise", {1, side, side, 3}, classes, {}, {}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};
  const Random random{1, purpose("bench"), 0};
  data.train.labels.resize(size_t(count)), data.train.pixels.resize(size_t(count * data.image.count()));
  for (size_t i = 0; i < data.train.labels.size(); ++i) data.train.labels[i] = int32_t(random.below(i, classes));
  for (size_t i = 0; i < data.train.pixels.size(); ++i) data.train.pixels[i] = uint8_t(random.below(i, 256));
  return dataset_of(std::move(data));
}

Dataset noise_texts(int64_t count, int64_t length, int64_t vocabulary) {
  struct Numbers {
    std::vector<int32_t> tokens, target, length, label;
  };
  constexpr int64_t classes = 2;
  auto numbers = std::make_shared<Numbers>();
  const Random random{1, purpose("bench"), 0};
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t t = 0; t <= length; ++t) {
      const auto token = int32_t(random.below(uint64_t(i * (length + 1) + t), uint32_t(vocabulary)));
      if (t < length) numbers->tokens.push_back(token);
      if (t > 0) numbers->target.push_back(token);
    }
    numbers->length.push_back(int32_t(length)), numbers->label.push_back(int32_t(i % classes));
  }
  const auto values = [](const std::vector<int32_t>& of) { return WholeNumbers(std::span<const int32_t>(of)); };
  std::vector<Column> columns = {{"tokens", values(numbers->tokens), "length", 0},
                                 {"target", values(numbers->target), "length", -100},
                                 {"length", values(numbers->length)},
                                 {"label", values(numbers->label)}};
  Dataset data{.name = "noise", .image = {1, 1, 1, 1}, .classes = classes, .vocabulary = vocabulary, .train = {}, .test = {}};
  data.train = data.test = column_samples(std::move(columns), {length}, numbers, "noise");
  return data;
}

}  // namespace pipecast
