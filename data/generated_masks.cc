// The shapes of generated.cc with a label for every pixel: 0 for the ground, 1 + kind for the shape. For models of pixels, without any
// file.
#include "data/generated.h"
#include "engine/error.h"
#include "engine/files/checksum.h"
#include "engine/files/sha256.h"
#include "engine/launch.h"

namespace pipecast {
namespace {

constexpr float mean = .5f, deviation = .31f;  // of each channel, as generated has them

class MaskSamples : public Samples {
 public:
  MaskSamples(int64_t count, int64_t side, uint32_t purpose)
      : count_(count),
        pixels_(side * side),
        columns_{{"image", Shape{1, side, side, generated_channels}}, {"label", {{1, side, side, 1}, Storage::int32}}},
        pictures_(size_t(count * pixels_ * generated_channels)),
        masks_(size_t(count * pixels_)) {
    parallel(count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        draw_shape(int(i % generated_kinds), {0, purpose, uint64_t(i)}, side, picture(i), masks_.data() + i * pixels_);
    });
  }

  int64_t size() const override { return count_; }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  void check(const Augmentation& augmentation) const override {
    if (augmentation.any()) throw UsageError("generated-masks has labels of pixels, which --augment would not move: leave it out");
  }

  void read(size_t column, const int32_t* samples, int64_t count, const Reading&, void* to) const override {
    for (int64_t i = 0; i < count; ++i) {
      if (column == 0) read_image(samples[i], static_cast<float*>(to) + i * pixels_ * generated_channels);
      else read_labels(samples[i], static_cast<int32_t*>(to) + i * pixels_);
    }
  }

  void add_to(Sha256& digest) const override {
    std::vector<uint64_t> hashes;
    for (int64_t i = 0; i < count_; ++i) {
      hashes.push_back(hash64(pictures_.data() + i * pixels_ * generated_channels, size_t(pixels_ * generated_channels)));
      hashes.push_back(hash64(masks_.data() + i * pixels_, size_t(pixels_)));
    }
    digest.add(hashes.data(), hashes.size() * sizeof(uint64_t));
  }

 private:
  uint8_t* picture(int64_t i) { return pictures_.data() + i * pixels_ * generated_channels; }
  void read_image(int64_t sample, float* to) const {
    const uint8_t* from = pictures_.data() + sample * pixels_ * generated_channels;
    for (int64_t k = 0; k < pixels_ * generated_channels; ++k) to[k] = (float(from[k]) / 255 - mean) / deviation;
  }
  void read_labels(int64_t sample, int32_t* to) const {
    const uint8_t* from = masks_.data() + sample * pixels_;
    for (int64_t k = 0; k < pixels_; ++k) to[k] = from[k] ? int32_t(1 + sample % generated_kinds) : 0;
  }

  int64_t count_, pixels_;
  std::vector<InputSpec> columns_;
  std::vector<uint8_t> pictures_, masks_;  // NHWC
};

}  // namespace

Dataset generate_masks(const std::string& train_size, const DataOptions& options) {
  const int64_t size = generated_size(train_size, "generated-masks"), side = options.image_size > 0 ? options.image_size : 64;
  if (options.resize > 0) throw UsageError("generated-masks draws its pictures at --image-size and scales none: leave --resize out");
  std::vector<std::string> names = {"ground"};
  names.insert(names.end(), generated_names().begin(), generated_names().end());
  return {.name = "generated-masks",
          .image = {1, side, side, generated_channels},
          .classes = generated_kinds + 1,
          .class_names = names,
          .train = std::make_shared<MaskSamples>(size, side, purpose("generated train")),
          .test = std::make_shared<MaskSamples>(size / 4, side, purpose("generated test")),
          .mean = std::vector<float>(generated_channels, mean),
          .deviation = std::vector<float>(generated_channels, deviation)};
}

}  // namespace pipecast
