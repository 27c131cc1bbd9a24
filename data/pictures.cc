#include "data/pictures.h"

#include <algorithm>

#include "engine/error.h"
#include "engine/files/checksum.h"
#include "engine/files/sha256.h"
#include "engine/launch.h"
#include "engine/random.h"

namespace pipecast {

namespace {

class PictureSamples : public Samples {
 public:
  PictureSamples(const PictureSet& set, std::shared_ptr<const Pictures> pictures)
      : image_(set.image),
        pictures_(std::move(pictures)),
        columns_{{"image", image_}, {"label", {{1, 1, 1, 1}, Storage::int32}}} {
    for (int64_t c = 0; c < image_.c; ++c)
      for (int byte = 0; byte < 256; ++byte)
        normalised_.push_back((float(byte) / 255 - set.mean[size_t(c)]) / set.deviation[size_t(c)]);
  }

  int64_t size() const override { return pictures_->size(); }
  const std::vector<InputSpec>& columns() const override { return columns_; }

  void read(size_t column, const int32_t* samples, int64_t count, const Reading& reading, void* to) const override {
    if (column == 0) return read_images(samples, count, reading, static_cast<float*>(to));
    for (int64_t i = 0; i < count; ++i) static_cast<int32_t*>(to)[i] = pictures_->labels[size_t(samples[i])];
  }

  // SHA-256 of all pixels would take seconds: it takes a hash of each picture's.
  void add_to(Sha256& digest) const override {
    const size_t bytes = size_t(image_.count());
    std::vector<uint64_t> hashes(static_cast<size_t>(size()));
    parallel(size(), 64, [&](int64_t begin, int64_t end) {
      for (size_t i = size_t(begin); i < size_t(end); ++i) hashes[i] = hash64(pictures_->pixels.data() + i * bytes, bytes);
    });
    digest.add(pictures_->labels.data(), pictures_->labels.size() * sizeof(int32_t));
    digest.add(hashes.data(), hashes.size() * sizeof(uint64_t));
  }

 private:
  void read_images(const int32_t* samples, int64_t count, const Reading& reading, float* images) const {
    const Random random{reading.seed, purpose("augment"), uint64_t(reading.epoch)};  // of crops and flips
    const Augmentation& augmentation = reading.augmentation;
    for (int64_t i = 0; i < count; ++i, images += image_.count()) {
      const uint64_t element = 4 * uint64_t(reading.place + i);
      const int64_t down = augmentation.crop ? int64_t(random.below(element, 9)) - 4 : 0;
      const int64_t right = augmentation.crop ? int64_t(random.below(element + 1, 9)) - 4 : 0;
      const bool mirrored = augmentation.flip && random.below(element + 2, 2) == 1;
      read_image(pictures_->pixels.data() + samples[i] * image_.count(), down, right, mirrored, images);
      if (augmentation.cutout > 0) cut_out(augmentation.cutout, {reading.seed, reading.epoch, reading.place + i}, image_, images);
    }
  }

  // Pixel (y, x) of the image is (y + down, x + right) of the picture, or black where that is outside.
  void read_image(const uint8_t* picture, int64_t down, int64_t right, bool mirrored, float* image) const {
    const int64_t height = image_.h, width = image_.w, channels = image_.c;
    const int64_t begin = std::clamp<int64_t>(-right, 0, width), end = std::clamp<int64_t>(width - right, begin, width);
    for (int64_t y = 0; y < height; ++y) {
      const bool within = y + down >= 0 && y + down < height;
      const int64_t from = within ? begin : width, to = within ? end : width;
      const int64_t step = mirrored ? -channels : channels;
      for (int64_t c = 0; c < channels; ++c) {
        const float* table = normalised_.data() + 256 * c;
        const int64_t in = ((y + down) * width + right) * channels + c;
        float* out = image + (y * width + (mirrored ? width - 1 : 0)) * channels + c;
        for (int64_t x = 0; x < from; ++x) out[x * step] = table[0];
        for (int64_t x = from; x < to; ++x) out[x * step] = table[picture[in + x * channels]];
        for (int64_t x = to; x < width; ++x) out[x * step] = table[0];
      }
    }
  }

  Shape image_;
  std::shared_ptr<const Pictures> pictures_;
  std::vector<InputSpec> columns_;
  std::vector<float> normalised_;  // channel x 256: what a byte becomes
};

}  // namespace

std::shared_ptr<const Samples> picture_samples(const PictureSet& set, const Pictures& pictures) {
  return std::make_shared<PictureSamples>(set, std::shared_ptr<const Pictures>(std::shared_ptr<void>(), &pictures));
}

Dataset dataset_of(PictureSet set) {
  Dataset dataset{.name = set.name, .image = set.image, .classes = set.classes, .train = {}, .test = {}, .skipped = set.skipped, .notes = set.notes};
  auto train = std::make_shared<const Pictures>(std::move(set.train)), test = std::make_shared<const Pictures>(std::move(set.test));
  dataset.train = std::make_shared<PictureSamples>(set, train);
  dataset.test = std::make_shared<PictureSamples>(set, test);
  return dataset;
}

}  // namespace pipecast
