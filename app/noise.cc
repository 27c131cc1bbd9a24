#include "app/noise.h"

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

}  // namespace pipecast
