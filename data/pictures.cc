#include "data/pictures.h"

#include <algorithm>

#include "data/resize.h"
#include "engine/error.h"
#include "engine/files/checksum.h"
#include "engine/files/sha256.h"
#include "engine/launch.h"
#include "engine/random.h"

namespace pipecast {
namespace {

class PicturesInMemory : public PictureSource {
 public:
  PicturesInMemory(const Shape& shape, std::shared_ptr<const Pictures> pictures) : shape_(shape), pictures_(std::move(pictures)) {}

  int64_t size() const override { return pictures_->size(); }
  int32_t label(int64_t picture) const override { return pictures_->labels[size_t(picture)]; }
  PictureView picture(int64_t picture, std::vector<uint8_t>&) const override {
    return {pictures_->pixels.data() + picture * shape_.count(), shape_};
  }
  bool decodes() const override { return false; }

  // SHA-256 of all pixels would take seconds: it takes a hash of each picture's.
  void add_to(Sha256& digest) const override {
    const size_t bytes = size_t(shape_.count());
    std::vector<uint64_t> hashes(static_cast<size_t>(size()));
    parallel(size(), 64, [&](int64_t begin, int64_t end) {
      for (size_t i = size_t(begin); i < size_t(end); ++i) hashes[i] = hash64(pictures_->pixels.data() + i * bytes, bytes);
    });
    digest.add(pictures_->labels.data(), pictures_->labels.size() * sizeof(int32_t));
    digest.add(hashes.data(), hashes.size() * sizeof(uint64_t));
  }

 private:
  Shape shape_;
  std::shared_ptr<const Pictures> pictures_;
};

// What a thread needs to make images.
struct Room {
  std::vector<uint8_t> decoded, scaled;
  std::vector<float> next;
};

class PictureSamples : public Samples {
 public:
  PictureSamples(std::shared_ptr<const PictureSource> source, const Shape& image, int64_t resize, const std::vector<float>& mean,
                 const std::vector<float>& deviation)
      : source_(std::move(source)),
        image_(image),
        resize_(resize),
        columns_{{"image", image_},
                 {"label", {{}, Storage::int32}},
                 {"second label", {{}, Storage::int32}},
                 {"share", {{}, Storage::fp32, false}}} {
    for (int64_t c = 0; c < image_.c; ++c)
      for (int byte = 0; byte < 256; ++byte) normalised_.push_back((float(byte) / 255 - mean[size_t(c)]) / deviation[size_t(c)]);
  }

  int64_t size() const override { return source_->size(); }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  bool takes_long(size_t column) const override { return column == image_column && (resize_ > 0 || source_->decodes()); }

  void check(const Augmentation& augmentation) const override {
    if ((augmentation.colours > 0 || augmentation.hue > 0) && image_.c != 3 && image_.c != 1)
      throw UsageError("colour-jitter and hue-jitter are for pictures of 1 or 3 channels, and these have " + std::to_string(image_.c) +
                       ": leave them out of --augment");
  }

  void read(size_t column, const int32_t* samples, int64_t count, const Reading& reading, void* to) const override {
    switch (column) {
      case image_column: return read_images(samples, count, reading, static_cast<float*>(to));
      case label_column: return read_labels(samples, count, static_cast<int32_t*>(to));
      case second_label_column: {
        auto* labels = static_cast<int32_t*>(to);
        const bool mixed = reading.augmentation.mixup > 0;
        read_labels(samples + mixed, count - mixed, labels);
        if (mixed) labels[count - 1] = source_->label(reading.next);
        return;
      }
      default:
        for (int64_t i = 0; i < count; ++i) static_cast<float*>(to)[i] = share(reading, i);
    }
  }

  void add_to(Sha256& digest) const override {
    source_->add_to(digest);
    if (resize_ == 0) return;
    const int64_t sizes[] = {image_.h, resize_};
    digest.add(sizes, sizeof sizes);
  }

 private:
  enum Column : size_t { image_column, label_column, second_label_column, share_column };

  void read_labels(const int32_t* samples, int64_t count, int32_t* labels) const {
    for (int64_t i = 0; i < count; ++i) labels[i] = source_->label(samples[i]);
  }

  // Of sample i of those that are read in its mixture.
  static float share(const Reading& reading, int64_t i) {
    const float mixup = reading.augmentation.mixup;
    return mixup > 0 ? mixing_share(mixup, {reading.seed, reading.epoch, reading.place + i}) : 1;
  }

  void read_images(const int32_t* samples, int64_t count, const Reading& reading, float* images) const {
    Room room;
    const int64_t floats = image_.count();
    for (int64_t i = 0; i < count; ++i) read_augmented(samples[i], reading.place + i, reading, room, images + i * floats);
    if (reading.augmentation.mixup == 0) return;
    room.next.resize(size_t(floats));
    read_augmented(reading.next, reading.next_place, reading, room, room.next.data());
    for (int64_t i = 0; i < count; ++i) {
      const float own = share(reading, i), *other = i + 1 < count ? images + (i + 1) * floats : room.next.data();
      for (int64_t k = 0; k < floats; ++k) images[i * floats + k] = own * images[i * floats + k] + (1 - own) * other[k];
    }
  }

  // The image of the sample at this position in the order of the epoch.
  void read_augmented(int64_t sample, int64_t position, const Reading& reading, Room& room, float* image) const {
    const Random random{reading.seed, purpose("augment"), uint64_t(reading.epoch)};  // of crops and flips
    const Augmentation& augmentation = reading.augmentation;
    const Draw draw{reading.seed, reading.epoch, position};
    const uint64_t element = 4 * uint64_t(draw.position);
    const int64_t down = augmentation.crop ? int64_t(random.below(element, 9)) - 4 : 0;
    const int64_t right = augmentation.crop ? int64_t(random.below(element + 1, 9)) - 4 : 0;
    const bool mirrored = augmentation.flip && random.below(element + 2, 2) == 1;
    read_image(picture_of_size(sample, augmentation, draw, room), down, right, mirrored, image);
    if (augmentation.erasing > 0) erase(augmentation.erasing, draw, image_, image);
    if (augmentation.cutout > 0) cut_out(augmentation.cutout, draw, image_, image);
  }

  // Pixels of the image's shape, with other colours where that is asked for.
  const uint8_t* picture_of_size(int64_t sample, const Augmentation& augmentation, const Draw& draw, Room& room) const {
    const PictureView picture = source_->picture(sample, room.decoded);
    const bool coloured = augmentation.colours > 0 || augmentation.hue > 0;
    if (augmentation.resized_crop > 0) {
      const Box box = random_box(augmentation.resized_crop, draw, picture.shape.h, picture.shape.w);
      resize(picture.pixels, picture.shape, box, image_.h, image_.w, {0, 0, image_.h, image_.w}, room.scaled);
    } else if (resize_ > 0 && !(picture.shape == image_ && resize_ == image_.h)) {
      resize_and_crop(picture.pixels, picture.shape, resize_, image_.h, room.scaled);
    } else if (coloured) {
      room.scaled.assign(picture.pixels, picture.pixels + image_.count());
    } else return picture.pixels;
    if (coloured) change_colours(augmentation.colours, augmentation.hue, draw, image_, room.scaled.data());
    return room.scaled.data();
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

  std::shared_ptr<const PictureSource> source_;
  Shape image_;
  int64_t resize_;
  std::vector<InputSpec> columns_;
  std::vector<float> normalised_;  // channel x 256: what a byte becomes
};

}  // namespace

std::shared_ptr<const Samples> picture_samples(std::shared_ptr<const PictureSource> source, const Shape& image, int64_t resize,
                                               const std::vector<float>& mean, const std::vector<float>& deviation) {
  return std::make_shared<PictureSamples>(std::move(source), image, resize, mean, deviation);
}

std::shared_ptr<const Samples> picture_samples(const PictureSet& set, const Pictures& pictures) {
  auto source = std::make_shared<PicturesInMemory>(set.image, std::shared_ptr<const Pictures>(std::shared_ptr<void>(), &pictures));
  return picture_samples(std::move(source), set.image, 0, set.mean, set.deviation);
}

Dataset dataset_of(PictureSet set, const DataOptions& options) {
  const int64_t size = options.image_size, resize = options.resize > 0 ? options.resize : size;
  const Shape image = size > 0 ? Shape{1, size, size, set.image.c} : set.image;
  const auto samples = [&](Pictures& pictures) {
    auto source = std::make_shared<PicturesInMemory>(set.image, std::make_shared<const Pictures>(std::move(pictures)));
    return picture_samples(std::move(source), image, resize, set.mean, set.deviation);
  };
  return {.name = set.name,
          .image = image,
          .classes = set.classes,
          .class_names = set.class_names,
          .train = samples(set.train),
          .test = samples(set.test),
          .skipped = set.skipped,
          .notes = set.notes,
          .mean = set.mean,
          .deviation = set.deviation};
}

}  // namespace pipecast
