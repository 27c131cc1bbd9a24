// Data sets of pictures other than CIFAR-10 and folders, and what training does to pictures.
#include <doctest/doctest.h>

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <set>
#include <sstream>

#include "data/decoders.h"
#include "data/loader.h"
#include "data/picture.h"
#include "data/picture_files.h"
#include "data_files.h"
#include "engine/files/checksum.h"
#include "engine/files/durable_file.h"
#include "engine/files/safetensors.h"
#include "engine/files/sha256.h"
#include "picture_batches.h"

using namespace pipecast;
using namespace pipecast::testing;

namespace {

std::string load_error(const std::string& data, BadSamples bad_samples = BadSamples::fail) {
  return usage_error([&] { load_dataset(data, {.bad_samples = bad_samples}); });
}

// `count` records of CIFAR-100: coarse label i % 20, fine label (i + 7) % 100, random pixels.
Bytes cifar100_records(size_t count, uint64_t stream) {
  Bytes bytes(count * 3074);
  for (size_t i = 0; i < bytes.size(); ++i) {
    const size_t record = i / 3074, at = i % 3074;
    bytes[i] = at == 0 ? uint8_t(record % 20) : at == 1 ? uint8_t((record + 7) % 100) : random_byte(stream, i);
  }
  return bytes;
}

// An idx file of bytes.
Bytes idx(const std::vector<uint32_t>& sizes, const Bytes& elements) {
  Bytes file = {0, 0, 8, uint8_t(sizes.size())};
  for (uint32_t size : sizes)
    for (int shift = 24; shift >= 0; shift -= 8) file.push_back(uint8_t(size >> shift));
  file.insert(file.end(), elements.begin(), elements.end());
  return file;
}
Bytes random_bytes(size_t count, uint64_t stream) {
  Bytes bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = random_byte(stream, i);
  return bytes;
}
void write_mnist(const fs::path& folder) {
  write(folder / "train-images-idx3-ubyte", idx({3, 4, 5}, random_bytes(60, 1)));
  write(folder / "train-labels-idx1-ubyte", idx({3}, {3, 9, 0}));
  write(folder / "t10k-images-idx3-ubyte", idx({2, 4, 5}, random_bytes(40, 2)));
  write(folder / "t10k-labels-idx1-ubyte", idx({2}, {1, 2}));
}

// What an environment variable names; nothing, and a message, where it is not set.
const char* real_data(const char* variable, const std::string& what) {
  const char* folder = std::getenv(variable);
  if (folder == nullptr) MESSAGE("skipped: set ", std::string(variable), " to a folder with ", what);
  return folder;
}

// The mean of pixel / 255 of a channel is the one that the set is normalised with.
void check_mean(const PictureSet& dataset, double tolerance) {
  const size_t channels = size_t(dataset.image.c);
  for (size_t c = 0; c < channels; ++c) {
    double sum = 0, squares = 0;
    for (size_t i = c; i < dataset.train.pixels.size(); i += channels) {
      const double value = dataset.train.pixels[i] / 255.;
      sum += value, squares += value * value;
    }
    const double count = double(dataset.train.pixels.size() / channels), mean = sum / count;
    CHECK(mean == doctest::Approx(dataset.mean[c]).epsilon(tolerance));
    CHECK(std::sqrt(squares / count - mean * mean) == doctest::Approx(dataset.deviation[c]).epsilon(tolerance));
  }
}

void check_counts(const Pictures& pictures, size_t classes) {
  std::vector<int64_t> counts(classes);
  for (int32_t label : pictures.labels) ++counts.at(size_t(label));
  CHECK(*std::min_element(counts.begin(), counts.end()) * 4 * int64_t(classes) > pictures.size());
}

}  // namespace

TEST_CASE("cifar100: fine and coarse labels, every byte where it belongs") {
  TemporaryFolder folder;
  fs::create_directories(folder.path / "cifar-100-binary");
  write(folder.path / "cifar-100-binary/train.bin", cifar100_records(120, 1));
  write(folder.path / "cifar-100-binary/test.bin", cifar100_records(5, 2));
  const PictureSet fine = load_cifar(Cifar::hundred, folder.path.string(), BadSamples::fail);
  const PictureSet coarse = load_cifar(Cifar::hundred_coarse, (folder.path / "cifar-100-binary").string(), BadSamples::fail);
  CHECK((fine.name == "cifar100" && fine.classes == 100 && coarse.name == "cifar100-coarse" && coarse.classes == 20));
  CHECK(fine.mean == std::vector<float>{.5071f, .4865f, .4409f});
  CHECK(fine.deviation == std::vector<float>{.2673f, .2564f, .2762f});
  REQUIRE((fine.train.size() == 120 && fine.test.size() == 5));
  CHECK(fine.train.pixels == coarse.train.pixels);
  const Bytes bytes = cifar100_records(120, 1);
  int64_t wrong = 0;
  for (size_t i = 0; i < 120; ++i) {
    wrong += fine.train.labels[i] != int32_t((i + 7) % 100);
    wrong += coarse.train.labels[i] != int32_t(i % 20);
    for (size_t p = 0; p < 1024; ++p)
      for (size_t c = 0; c < 3; ++c) wrong += fine.train.pixels[(i * 1024 + p) * 3 + c] != bytes[i * 3074 + 2 + c * 1024 + p];
  }
  CHECK(wrong == 0);
  CHECK(load_dataset("cifar100:" + folder.path.string()).classes == 100);
  CHECK(load_dataset("cifar100-coarse:" + folder.path.string()).classes == 20);
}

TEST_CASE("cifar100: what is wrong is named") {
  TemporaryFolder folder;
  check_has(load_error("cifar100"), {"cifar100:DIR", "train.bin and test.bin"});
  check_has(load_error("cifar100:" + (folder.path / "none").string()), {"CIFAR-100 folder", "is not there", "data/download cifar100"});
  check_has(load_error("cifar100:" + folder.path.string()), {"train.bin' is missing", "train.bin and test.bin"});
  write(folder.path / "test.bin", cifar100_records(5, 2));
  Bytes records = cifar100_records(5, 1);
  records.pop_back();
  write(folder.path / "train.bin", records);
  check_has(load_error("cifar100:" + folder.path.string()), {"CIFAR-100 file", "train.bin' is truncated", "3074"});
  // A bad label of either kind, whichever is read.
  for (const auto& [at, label, most] : {std::tuple{0, 20, "0 to 19"}, {1, 100, "0 to 99"}})
    for (const char* name : {"cifar100:", "cifar100-coarse:"}) {
      records = cifar100_records(5, 1);
      records[size_t(2 * 3074 + at)] = uint8_t(label);
      write(folder.path / "train.bin", records);
      check_has(load_error(name + folder.path.string()), {"record 2", "label " + std::to_string(label), most, "--bad-samples skip"});
      const Dataset dataset = load_dataset(name + folder.path.string(), {.bad_samples = BadSamples::skip});
      CHECK((dataset.skipped == 1 && dataset.train->size() == 4));
    }
}

TEST_CASE("cifar100: the real one") {
  const char* folder = real_data("PIPECAST_CIFAR100", "CIFAR-100 (binary version)");
  if (folder == nullptr) return;
  for (Cifar kind : {Cifar::hundred, Cifar::hundred_coarse}) {
    const PictureSet dataset = load_cifar(kind, folder, BadSamples::fail);
    check_mean(dataset, .03);
    check_counts(dataset.train, size_t(dataset.classes));
  }
}

TEST_CASE("mnist: every byte of idx files arrives where it belongs") {
  TemporaryFolder folder;
  write_mnist(folder.path);
  const PictureSet dataset = load_mnist(folder.path.string(), BadSamples::fail);
  CHECK(dataset.image == Shape{1, 4, 5, 1});
  CHECK(dataset.classes == 10);
  CHECK(dataset.train.pixels == random_bytes(60, 1));
  CHECK(dataset.test.pixels == random_bytes(40, 2));
  CHECK(dataset.train.labels == std::vector<int32_t>{3, 9, 0});
  CHECK(dataset.test.labels == std::vector<int32_t>{1, 2});
  CHECK((dataset.mean == std::vector<float>{.1307f} && dataset.deviation == std::vector<float>{.3081f}));
  const PictureSet fashion = load_fashion_mnist(folder.path.string(), BadSamples::fail);
  CHECK((fashion.mean == std::vector<float>{.2860f} && fashion.deviation == std::vector<float>{.3530f}));
  CHECK(load_dataset("mnist:" + folder.path.string()).name == "mnist");
  CHECK(load_dataset("fashion-mnist:" + folder.path.string()).name == "fashion-mnist");
}

TEST_CASE("mnist: what is wrong is named") {
  TemporaryFolder folder;
  const std::string data = "mnist:" + folder.path.string();
  const fs::path images = folder.path / "train-images-idx3-ubyte", labels = folder.path / "train-labels-idx1-ubyte";
  check_has(load_error("mnist"), {"mnist:DIR"});
  check_has(load_error("fashion-mnist:" + (folder.path / "none").string()), {"is not there", "data/download fashion-mnist"});
  check_has(load_error(data), {images.string(), "is missing", "t10k-labels-idx1-ubyte"});
  write(images.string() + ".gz", {0x1f, 0x8b});
  check_has(load_error(data), {"is packed", "gunzip " + images.string() + ".gz"});
  const auto refused = [&](const fs::path& path, const Bytes& bytes, std::initializer_list<std::string> parts) {
    write_mnist(folder.path);
    REQUIRE(load_error(data) == "no UsageError");
    write(path, bytes);
    check_has(load_error(data), {path.string()});
    check_has(load_error(data), parts);
  };
  refused(images, {0x1f, 0x8b, 8, 0}, {"is packed", "gunzip"});
  for (const Bytes& bytes : {Bytes{}, Bytes{0, 0, 8, 3}, idx({3}, {1, 2, 3}), Bytes{0, 0, 13, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9}})
    refused(images, bytes, {"no idx file of bytes with 3 dimensions"});
  refused(labels, idx({3, 1, 1}, {1, 2, 3}), {"no idx file of bytes with 1 dimensions"});
  refused(images, idx({3, 4, 5}, random_bytes(59, 1)), {"truncated", "59 bytes where 60"});
  refused(images, idx({3, 4, 5}, random_bytes(61, 1)), {"truncated", "61 bytes where 60"});
  refused(images, idx({0, 4, 5}, {}), {"at least one"});
  refused(images, idx({3, 4, 0}, {}), {"a side has 0 pixels"});
  refused(images, idx({0xffffffff, 0xffffffff, 0xffffffff}, {}), {"4294967295 pixels", "1 to 4096"});
  refused(labels, idx({2}, {1, 2}), {"has 3 pictures", "2 labels"});
  refused(labels, idx({3}, {1, 10, 2}), {"label 10 of picture 1", "--bad-samples skip"});
  const Dataset dataset = load_dataset(data, {.bad_samples = BadSamples::skip});
  CHECK((dataset.skipped == 1 && dataset.train->size() == 2));
  write(labels, idx({3}, {11, 10, 12}));
  check_has(load_error(data, BadSamples::skip), {"no label from 0 to 9"});
  write_mnist(folder.path);
  write(folder.path / "t10k-images-idx3-ubyte", idx({2, 5, 4}, random_bytes(40, 2)));
  check_has(load_error(data), {"are 4 x 5", "training 5 x 4"});
}

TEST_CASE("mnist and fashion-mnist: the real ones") {
  if (const char* folder = real_data("PIPECAST_MNIST", "MNIST's four files, unpacked")) {
    const PictureSet dataset = load_mnist(folder, BadSamples::fail);
    CHECK(dataset.image == Shape{1, 28, 28, 1});
    check_mean(dataset, .02);
    check_counts(dataset.train, 10);
  }
  if (const char* folder = real_data("PIPECAST_FASHION_MNIST", "Fashion-MNIST's four files, unpacked")) {
    const PictureSet dataset = load_fashion_mnist(folder, BadSamples::fail);
    check_mean(dataset, .02);
    check_counts(dataset.train, 10);
  }
}

TEST_CASE("augmentation: numbers after the names") {
  CHECK(parse_augmentation("cutout").cutout == 8);
  CHECK(parse_augmentation("crop,flip,cutout:16").cutout == 16);
  CHECK(parse_augmentation("crop,flip").cutout == 0);
  for (const char* wrong : {"cutout:", "cutout:0", "cutout:x", "cutout:8x", "cutout:4097", "cutout:nan", "cutout:-1", "cutout:1e9"})
    check_has(usage_error([&] { parse_augmentation(wrong); }), {in_quotes(wrong), "1 to 4096"});
  check_has(usage_error([] { parse_augmentation("cutout:8.5"); }), {"whole number"});
  check_has(usage_error([] { parse_augmentation("crop:4"); }), {"'crop:4'", "takes no number"});
  check_has(usage_error([] { parse_augmentation("cutot:4"); }), {"'cutot'", "did you mean 'cutout'?"});
}

TEST_CASE("augmentation: cutout sets one square within the image to the mean and nothing else, everywhere equally often") {
  const Shape shape{1, 11, 9, 3};
  PictureSet dataset{
      .name = "white", .image = shape, .classes = 1, .train = {}, .test = {}, .mean = {.5f, .4f, .3f}, .deviation = {.1f, .2f, .3f}};
  constexpr int64_t n = 6000;
  dataset.train.pixels.assign(size_t(n * shape.count()), 255), dataset.train.labels.assign(size_t(n), 0);
  std::vector<float> plain(size_t(n * shape.count())), images = plain;
  PictureBatches(dataset, dataset.train, n, true, {}, 4).images(0, plain.data());
  PictureBatches(dataset, dataset.train, n, true, {.cutout = 8}, 4).images(0, images.data());
  std::vector<int> corners(8);
  for (size_t i = 0; i < size_t(n); ++i) {
    const float* image = &images[i * size_t(shape.count())];
    int64_t top = shape.h, bottom = 0, left = shape.w, right = 0, zeros = 0;
    for (int64_t j = 0; j < shape.count(); ++j)
      if (image[j] == 0) {
        const int64_t y = j / shape.c / shape.w, x = j / shape.c % shape.w;
        top = std::min(top, y), bottom = std::max(bottom, y), left = std::min(left, x), right = std::max(right, x), ++zeros;
      } else CHECK(image[j] == plain[size_t(j)]);
    REQUIRE((zeros == 8 * 8 * 3 && bottom - top == 7 && right - left == 7));
    ++corners.at(size_t(top * 2 + left));
  }
  for (int count : corners) CHECK(std::abs(count - n / 8) < 130);  // five standard deviations
  // The same whatever the batch; another one in the next epoch; as much as there is of a large square.
  std::vector<float> other(images.size());
  PictureBatches seven(dataset, dataset.train, 1000, true, {.cutout = 8}, 4);
  for (int64_t b = 0; b < 6; ++b) seven.images(b, other.data() + b * 1000 * shape.count());
  CHECK(other == images);
  PictureBatches(dataset, dataset.train, n, true, {.cutout = 8}, 4).images(1, other.data());
  CHECK(other != images);
  PictureBatches(dataset, dataset.train, n, true, {.cutout = 100}, 4).images(0, other.data());
  CHECK(other == std::vector<float>(other.size()));
}

namespace {

SafeTensors golden(const std::string& name) { return read_safetensors((fs::path(GOLDEN_DIR) / name).string()); }
Shape shape_of(const FileTensor& tensor) {
  const auto& sizes = tensor.shape;
  return {1, sizes[0], sizes[1], sizes.size() == 3 ? sizes[2] : 1};
}
template <class A, class B>
int most_difference(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  int most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(int(a[i]) - int(b[i])));
  return most;
}

}  // namespace

TEST_CASE("resize: as Pillow's BILINEAR and torchvision's Resize and CenterCrop, to 1 of 255") {
  const SafeTensors file = golden("scaled.safetensors");
  int compared = 0;
  for (const auto& [name, expected] : file.tensors) {
    std::istringstream words(name);
    std::string picture, to;
    words >> picture;
    if (picture == name) continue;
    const FileTensor& from = file.tensors.at(picture);
    CAPTURE(name);
    Bytes result;
    if (name.ends_with("middle")) resize_and_crop(from.bytes.data(), shape_of(from), 20, 17, result);
    else {
      Box box;
      int64_t height = 0, width = 0;
      words >> box.top >> box.left >> box.height >> box.width >> to >> height >> width;
      resize(from.bytes.data(), shape_of(from), box, height, width, {0, 0, height, width}, result);
      // A part of it is the same pixels.
      if (height > 2 && width > 3) {
        Bytes part;
        resize(from.bytes.data(), shape_of(from), box, height, width, {1, 2, height - 2, width - 3}, part);
        const int64_t channels = shape_of(from).c;
        for (int64_t i = 0; i < int64_t(part.size()); ++i) {
          const int64_t y = i / channels / (width - 3) + 1, x = i / channels % (width - 3) + 2;
          REQUIRE(part[size_t(i)] == result[size_t((y * width + x) * channels + i % channels)]);
        }
      }
    }
    CHECK(most_difference(result, expected.bytes) <= 1);
    ++compared;
  }
  CHECK(compared == 43);
}

TEST_CASE("augmentation: brightness, contrast, saturation and hue as torchvision changes them, to 1 of 255") {
  const SafeTensors file = golden("colours.safetensors");
  int compared = 0;
  for (const auto& [name, expected] : file.tensors) {
    std::istringstream words(name);
    std::string picture, change;
    float factor = 0;
    words >> picture >> change >> factor;
    if (picture == name) continue;
    CAPTURE(name);
    Bytes pixels = file.tensors.at(picture).bytes;
    (change == "brightness"   ? change_brightness
     : change == "contrast"   ? change_contrast
     : change == "saturation" ? change_saturation
                              : change_hue)(factor, shape_of(expected), pixels.data());
    CHECK(most_difference(pixels, expected.bytes) <= 1);
    ++compared;
  }
  CHECK(compared == 24);
}

TEST_CASE("augmentation: a random resized crop has torchvision's areas and ratios, lies within, and is everywhere") {
  constexpr int64_t n = 4000, height = 60, width = 80;
  double area = 0, log_ratio = 0, middle = 0, least = 1;
  for (int64_t position = 0; position < n; ++position) {
    const Box box = random_box(.25f, {5, 2, position}, height, width);
    REQUIRE((box.top >= 0 && box.left >= 0 && box.height > 0 && box.width > 0 && box.top + box.height <= height &&
             box.left + box.width <= width));
    const double share = double(box.height * box.width) / double(height * width), ratio = double(box.width) / double(box.height);
    CHECK((share > .23 && share <= 1));
    CHECK((ratio > .72 && ratio < 1.39));
    area += share, log_ratio += std::log(ratio), least = std::min(least, share);
    middle += (double(box.left) + double(box.width) / 2) / double(width);
    CHECK(random_box(.25f, {5, 2, position}, height, width) == box);
  }
  // Large ones fit less often. Both means, to five standard deviations, are those of 200,000 rectangles that torchvision's rule gives.
  CHECK(std::abs(area / n - .5272) < .014);
  CHECK(least < .26);
  CHECK(middle / n == doctest::Approx(.5).epsilon(.01));
  CHECK(std::abs(log_ratio / n - .0406) < .013);
  CHECK(!(random_box(.25f, {5, 2, 0}, height, width) == random_box(.25f, {5, 3, 0}, height, width)));
  // Where nothing fits: the largest rectangle in the middle.
  CHECK(random_box(1, {5, 2, 0}, 10, 100) == Box{0, 43, 10, 13});
  CHECK(random_box(1, {5, 2, 0}, 100, 10) == Box{43, 0, 13, 10});
}

TEST_CASE("augmentation: random erasing has torchvision's areas and ratios and its probability") {
  const Shape shape{1, 40, 50, 3};
  constexpr int64_t n = 4000;
  int64_t erased = 0;
  double area = 0;
  std::vector<float> image(size_t(shape.count()));
  for (int64_t position = 0; position < n; ++position) {
    std::fill(image.begin(), image.end(), 1.f);
    erase(.25f, {6, 1, position}, shape, image.data());
    int64_t top = shape.h, bottom = -1, left = shape.w, right = -1, zeros = 0;
    for (int64_t j = 0; j < shape.count(); ++j)
      if (image[size_t(j)] == 0) {
        const int64_t y = j / shape.c / shape.w, x = j / shape.c % shape.w;
        top = std::min(top, y), bottom = std::max(bottom, y), left = std::min(left, x), right = std::max(right, x), ++zeros;
      }
    if (zeros == 0) continue;
    ++erased;
    const int64_t h = bottom - top + 1, w = right - left + 1;
    REQUIRE(zeros == h * w * 3);
    const double share = double(h * w) / double(shape.h * shape.w), ratio = double(h) / double(w);
    CHECK((share > .015 && share < .35));
    CHECK((ratio > .25 && ratio < 4));
    area += share;
  }
  CHECK(std::abs(erased - n / 4) < 140);  // five standard deviations
  CHECK(area / double(erased) == doctest::Approx(.17).epsilon(.05));
}

TEST_CASE("augmentation: names and numbers of all") {
  const Augmentation all =
      parse_augmentation("random-resized-crop:.5,colour-jitter,hue-jitter:.2,random-erasing:.25,crop,flip,cutout:4,mixup:.3");
  CHECK(all ==
        Augmentation{
            .crop = true, .flip = true, .resized_crop = .5f, .colours = .4f, .hue = .2f, .erasing = .25f, .cutout = 4, .mixup = .3f});
  CHECK(parse_augmentation("random-resized-crop,random-erasing,hue-jitter") ==
        Augmentation{.resized_crop = .08f, .hue = .1f, .erasing = .5f});
  check_has(usage_error([] { parse_augmentation("random-resized-crop:0"); }), {"0.0001 to 1"});
  check_has(usage_error([] { parse_augmentation("hue-jitter:.6"); }), {"0 to 0.5"});
  check_has(usage_error([] { parse_augmentation("random-erasing:2"); }), {"0 to 1"});
  check_has(usage_error([] { parse_augmentation("colour-jiter"); }), {"did you mean 'colour-jitter'?"});
}

TEST_CASE("augmentation: mixup's shares are from Beta(alpha, alpha)") {
  for (const double alpha : {.01, .2, 1., 4.}) {
    CAPTURE(alpha);
    double sum = 0, squares = 0;
    constexpr int64_t n = 20000;
    for (int64_t i = 0; i < n; ++i) {
      const double share = double(mixing_share(float(alpha), {3, 1, i}));
      CHECK((share >= 0 && share <= 1));
      sum += share, squares += (share - .5) * (share - .5);
    }
    const double variance = 1 / (4 * (2 * alpha + 1));
    CHECK(sum / n == doctest::Approx(.5).epsilon(.03));
    CHECK(squares / n == doctest::Approx(variance).epsilon(.04));
  }
}

// Each image is its own and the next one's of the epoch, as they are without mixup, and the labels are those of both; whatever the batch
// size.
TEST_CASE("augmentation: mixup, image by image") {
  const Dataset dataset = load_dataset("generated:23");
  const int64_t floats = dataset.image.count(), count = 23;
  const Batches plain(dataset.train, {.batch = count, .shuffle = true, .augmentation = parse_augmentation("crop,flip,cutout"), .seed = 4});
  std::vector<float> images(size_t(count * floats));
  std::vector<int32_t> labels(size_t(count), 0);
  const InputSpec label{"label", {{}, Storage::int32}}, second{"second label", {{}, Storage::int32}},
      share{"share", {{}, Storage::fp32, false}};
  for (const int64_t epoch : {0, 2}) {
    plain.read(epoch, plain.column({"image", dataset.image}), images.data());
    plain.read(epoch, plain.column(label), labels.data());
    for (const int64_t batch : {1, 5, 23}) {
      const Batches mixed(dataset.train,
                          {.batch = batch, .shuffle = true, .augmentation = parse_augmentation("crop,flip,cutout,mixup:1"), .seed = 4});
      for (int64_t index = 0, at = 0; index < mixed.per_epoch(); ++index) {
        const int64_t n = mixed.size(index), number = epoch * mixed.per_epoch() + index;
        std::vector<float> read(size_t(n * floats)), shares(size_t(n), -1.f);
        std::vector<int32_t> first(size_t(n), -1), other(size_t(n), -1);
        // In two halves, as threads of a loader read.
        for (const auto& [begin, end] : {std::pair{int64_t(0), n / 2}, {n / 2, n}}) {
          if (begin == end) continue;
          mixed.read(number, mixed.column({"image", dataset.image}), begin, end, read.data());
          mixed.read(number, mixed.column(label), begin, end, first.data());
          mixed.read(number, mixed.column(second), begin, end, other.data());
          mixed.read(number, mixed.column(share), begin, end, shares.data());
        }
        for (int64_t i = 0; i < n; ++i, ++at) {
          const int64_t next = (at + 1) % count;
          const float s = shares[size_t(i)];
          CHECK(s == mixing_share(1, {4, epoch, at}));
          CHECK(first[size_t(i)] == labels[size_t(at)]);
          CHECK(other[size_t(i)] == labels[size_t(next)]);
          float error = 0;
          for (int64_t k = 0; k < floats; ++k)
            error = std::max(error, std::abs(read[size_t(i * floats + k)] - s * images[size_t(at * floats + k)] -
                                             (1 - s) * images[size_t(next * floats + k)]));
          CHECK(error < 1e-5f);
        }
      }
    }
  }
  // Tests are not mixed.
  const Batches test(dataset.test, {.batch = 5, .augmentation = parse_augmentation("mixup")});
  std::vector<float> shares(5);
  std::vector<int32_t> first(5), other(5);
  test.read(0, test.column(share), shares.data()), test.read(0, test.column(label), first.data());
  test.read(0, test.column(second), other.data());
  CHECK(shares == std::vector<float>(5, 1.f));
  CHECK(first == other);
}

TEST_CASE("augmentation: what is read depends on the place alone, for all of them at once") {
  PictureSet dataset{.name = "noise",
                     .image = {1, 12, 14, 3},
                     .classes = 1,
                     .train = {},
                     .test = {},
                     .mean = {.5f, .4f, .3f},
                     .deviation = {.1f, .2f, .3f}};
  constexpr int64_t n = 60;
  dataset.train.pixels = random_bytes(size_t(n * dataset.image.count()), 8), dataset.train.labels.assign(size_t(n), 0);
  const Augmentation all = parse_augmentation("random-resized-crop,colour-jitter,hue-jitter,random-erasing,crop,flip,cutout:4");
  std::vector<float> whole(size_t(n * dataset.image.count())), pieces = whole, plain = whole;
  PictureBatches(dataset, dataset.train, n, true, all, 4).images(3, whole.data());
  PictureBatches(dataset, dataset.train, n, true, {}, 4).images(3, plain.data());
  CHECK(whole != plain);
  const PictureBatches seven(dataset, dataset.train, 7, true, all, 4);
  for (int64_t b = 0; b < 9; ++b) {
    const int64_t index = 3 * 9 + b, size = seven.size(index);
    float* to = pieces.data() + b * 7 * dataset.image.count();
    seven.read(index, 0, size / 2, size, to), seven.read(index, 0, 0, size / 2, to);
  }
  CHECK(pieces == whole);
  // Each alone changes something, and nothing in the order of the files.
  for (const char* one : {"random-resized-crop", "colour-jitter", "hue-jitter", "random-erasing", "crop", "flip", "cutout:4"}) {
    CAPTURE(one);
    PictureBatches(dataset, dataset.train, n, true, parse_augmentation(one), 4).images(3, pieces.data());
    CHECK(pieces != plain);
    PictureBatches(dataset, dataset.train, n, false, parse_augmentation(one), 4).images(0, pieces.data());
    PictureBatches(dataset, dataset.train, n, false, {}, 4).images(0, whole.data());
    CHECK(pieces == whole);
  }
  PictureSet four{
      .name = "four", .image = {1, 4, 4, 4}, .classes = 1, .train = {}, .test = {}, .mean = {0, 0, 0, 0}, .deviation = {1, 1, 1, 1}};
  four.train.pixels.assign(64, 1), four.train.labels.assign(1, 0);
  check_has(usage_error([&] { PictureBatches(four, four.train, 1, true, {.hue = .1f}, 1); }), {"1 or 3 channels, and these have 4"});
}

TEST_CASE("image size: pictures of data sets in memory are scaled, the middle is taken, and the digest knows") {
  const Dataset plain = load_dataset("generated:20"), scaled = load_dataset("generated:20", {.image_size = 24, .resize = 40});
  CHECK(scaled.image == Shape{1, 24, 24, 3});
  CHECK(digest(plain) != digest(scaled));
  CHECK(digest(scaled) != digest(load_dataset("generated:20", {.image_size = 24})));
  CHECK(digest(plain) == digest(load_dataset("generated:20", {.cache = 0})));
  CHECK(scaled.train->takes_long(0));
  CHECK((!scaled.train->takes_long(1) && !plain.train->takes_long(0)));
  const PictureSet set = generate_shapes("20");
  std::vector<float> image(size_t(scaled.image.count()));
  const int32_t sample = 7;
  scaled.train->read(0, &sample, 1, {.augmentation = {}}, image.data());
  Bytes expected;
  resize_and_crop(set.train.pixels.data() + 7 * 3072, {1, 32, 32, 3}, 40, 24, expected);
  int64_t wrong = 0;
  for (size_t j = 0; j < image.size(); ++j) wrong += image[j] != (float(expected[j]) / 255 - set.mean[j % 3]) / set.deviation[j % 3];
  CHECK(wrong == 0);
  check_has(usage_error([] { load_dataset("generated:20", {.image_size = 24, .resize = 23}); }),
            {"--resize 23", "--image-size 24", "at least as large"});
  check_has(usage_error([] { load_dataset("generated:20", {.resize = 23}); }), {"--resize 23 needs --image-size"});
}

TEST_CASE("picture: a JPEG at a part of its size is what libjpeg makes for Pillow") {
  if (!have_libjpeg) {
    MESSAGE("skipped: this build has no libjpeg");
    return;
  }
  const SafeTensors file = golden("reduced.safetensors");
  for (const auto& [name, expected] : file.tensors) {
    CAPTURE(name);
    const std::string picture = name.substr(0, name.find(' '));
    const std::vector<uint8_t> bytes = read_file((fs::path(GOLDEN_DIR) / "../fuzz/corpus/picture" / picture).string());
    most_allocated = 1 << 20;
    const DecodedPicture picture_of_size = decode_jpeg(text_of(bytes), name.back() - '0');
    REQUIRE((picture_of_size.pixels && Shape{1, picture_of_size.height, picture_of_size.width, 3} == shape_of(expected)));
    const uint8_t* pixels = picture_of_size.pixels.get();
    CHECK(most_difference(Bytes(pixels, pixels + shape_of(expected).count()), expected.bytes) <= 1);
  }
  const std::vector<uint8_t> bytes = read_file((fs::path(GOLDEN_DIR) / "../fuzz/corpus/picture/slopes.jpg").string());
  const auto height = [&](int64_t least_side) { return picture_format(text_of(bytes), "p", {Orientation::ignore, least_side}).shape.h; };
  CHECK((height(0) == 26 && height(14) == 26 && height(13) == 13 && height(7) == 13 && height(6) == 7 && height(3) == 4));
}

namespace {

// A JPEG of smooth colours that the number chooses.
void write_jpeg(const fs::path& path, int width, int height, int number) {
  Bytes pixels;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) pixels.push_back(uint8_t(60 + (number * (37 + 11 * c)) % 120 + x * 40 / width + y * 30 / height));
  REQUIRE(stbi_write_jpg(path.c_str(), width, height, 3, pixels.data(), 95) != 0);
}

// 24 pictures for training, 6 for testing, of many sizes, in three classes.
void write_photos(const fs::path& folder) {
  for (const char* part : {"train", "val"})
    for (const char* name : {"a", "b", "c"}) {
      fs::create_directories(folder / part / name);
      for (int i = 0; i < (std::string(part) == "train" ? 8 : 2); ++i) {
        const int number = i + 10 * (name[0] - 'a');
        write_jpeg(folder / part / name / (std::to_string(i) + ".jpg"), 40 + 7 * i, 70 - 3 * i, number);
      }
    }
}

std::vector<float> images_of(const Dataset& dataset, const Augmentation& augmentation, int64_t epoch) {
  const Batches batches(dataset.train, {.batch = 5, .shuffle = true, .augmentation = augmentation, .seed = 3});
  std::vector<float> images;
  for (int64_t b = 0; b < batches.per_epoch(); ++b) {
    const int64_t index = epoch * batches.per_epoch() + b, size = batches.size(index) * dataset.image.count();
    images.resize(images.size() + size_t(size));
    batches.read(index, 0, &images[images.size() - size_t(size)]);
  }
  return images;
}

}  // namespace

TEST_CASE("folder: pictures of any size, scaled; the same whatever is kept in memory") {
  TemporaryFolder folder;
  write_photos(folder.path);
  const std::string data = "folder:" + folder.path.string();
  check_has(load_error(data), {"0.jpg' is 40 x 70", "--image-size"});
  const Dataset kept = load_dataset(data, {.image_size = 32, .resize = 36}),
                little = load_dataset(data, {.image_size = 32, .resize = 36, .cache = 30000}),
                nothing = load_dataset(data, {.image_size = 32, .resize = 36, .cache = 0});
  CHECK((kept.image == Shape{1, 32, 32, 3} && kept.classes == 3 && kept.train->size() == 24 && kept.test->size() == 6));
  CHECK((digest(kept) == digest(little) && digest(kept) == digest(nothing)));
  CHECK((kept.mean == little.mean && kept.deviation == nothing.deviation));
  for (const Augmentation& augmentation : {Augmentation{}, Augmentation{.flip = true, .resized_crop = .3f, .colours = .4f}})
    for (int64_t epoch : {0, 1}) {
      const std::vector<float> images = images_of(kept, augmentation, epoch);
      CHECK((images == images_of(little, augmentation, epoch) && images == images_of(nothing, augmentation, epoch)));
    }
  // Several threads give the same mini-batches in turn.
  for (const Dataset* dataset : {&kept, &little, &nothing}) {
    const BatchOptions options{.batch = 11, .shuffle = true, .augmentation = {.resized_crop = .3f}, .seed = 3};
    const Batches direct(dataset->train, options);
    const std::vector<InputSpec> inputs = {{"image", dataset->image}, {"label", {{1, 1, 1, 1}, Storage::int32}}};
    for (int64_t begin : {0, 2}) {
      Loader loader(direct, inputs, begin, 14);
      for (int64_t index = begin; index < 14; ++index) {
        REQUIRE(loader.next() == direct.shape(index));
        std::vector<float> images(size_t(direct.size(index) * dataset->image.count()));
        std::vector<int32_t> labels(size_t(direct.size(index)));
        direct.read(index, 0, images.data()), direct.read(index, 1, labels.data());
        CHECK(std::equal(images.begin(), images.end(), loader.column(0).as<float>()));
        CHECK(std::equal(labels.begin(), labels.end(), loader.column(1).as<int32_t>()));
      }
    }
    Loader(direct, inputs, 0, 1'000'000'000).next();  // ends at any time
  }
}

TEST_CASE("folder: what is damaged and not decoded at the start is named when it is met, or looked for and left out") {
  TemporaryFolder folder;
  write_photos(folder.path);
  const std::string data = "folder:" + folder.path.string();
  const fs::path path = folder.path / "train/b/3.jpg";
  std::vector<uint8_t> bytes = read_file(path.string());
  bytes.resize(bytes.size() - 100);
  write(path, bytes);
  const DataOptions lazy{.image_size = 32, .cache = 1000}, eager{.image_size = 32};
  check_has(usage_error([&] { load_dataset(data, eager); }), {path.string(), "is damaged", "--bad-samples skip"});  // all fit into memory
  // Of 24 pictures the mean is made of all, so it is met there.
  check_has(usage_error([&] { load_dataset(data, lazy); }), {path.string(), "is damaged"});
  for (DataOptions options : {lazy, eager}) {
    options.bad_samples = BadSamples::skip;
    const Dataset dataset = load_dataset(data, options);
    CHECK((dataset.skipped == 1 && dataset.train->size() == 23));
    CHECK(images_of(dataset, {}, 0).size() == size_t(23 * dataset.image.count()));
  }
  // Met by a loader, among its threads: the mini-batches before it come, then what is wrong.
  std::vector<ClassFile> files;
  for (const char* name : {"a", "b"})
    for (int i = 0; i < 8; ++i) files.push_back({(folder.path / "train" / name / (std::to_string(i) + ".jpg")).string(), name[0] - 'a'});
  const auto source = std::make_shared<PictureFiles>(files, Decoding{}, BadSamples::fail, std::make_shared<CacheRoom>(0));
  const auto samples = picture_samples(source, {1, 20, 20, 3}, 20, {0, 0, 0}, {1, 1, 1});
  for (int again = 0; again < 20; ++again) {
    Loader loader(Batches(samples, {.batch = 2}), {InputSpec{"image", {{1, 20, 20, 3}}}}, 0, 8);
    for (int i = 0; i < 5; ++i) CHECK(loader.next().samples == 2);
    CHECK_THROWS_WITH_AS(loader.next(), doctest::Contains("train/b/3.jpg"), UsageError);
    CHECK_THROWS_AS(loader.next(), UsageError);
  }
}

TEST_CASE("folder: headers that are longer than what is read at first, and EXIF data behind a large PNG's pixels") {
  TemporaryFolder folder;
  fs::create_directories(folder.path / "train/a"), fs::create_directories(folder.path / "val/a");
  const std::string data = "folder:" + folder.path.string();
  const auto chunk = [](const std::string& name, const std::string& content) {
    const auto number = [](uint32_t value) { return std::string{char(value >> 24), char(value >> 16), char(value >> 8), char(value)}; };
    const std::string checked = name + content;
    return number(uint32_t(content.size())) + checked + number(crc32(checked.data(), checked.size()));
  };
  int size = 0;
  unsigned char* encoded = stbi_write_png_to_mem(random_bytes(200 * 150 * 3, 4).data(), 200 * 3, 200, 150, 3, &size);
  std::string png(reinterpret_cast<const char*>(encoded), size_t(size));
  std::free(encoded);
  REQUIRE(png.size() > 1 << 16);
  // Turned by a quarter: orientation 6.
  const std::string exif("MM\0*\0\0\0\10\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0", 26);
  png.insert(png.size() - 12, chunk("eXIf", exif));
  for (const char* part : {"train/a/1.png", "val/a/1.png"}) write(folder.path / part, Bytes(png.begin(), png.end()));
  CHECK(load_dataset(data).image == Shape{1, 150, 200, 3});
  const Dataset upright = load_dataset(data, {.orientation = Orientation::apply});
  CHECK(upright.image == Shape{1, 200, 150, 3});
  CHECK(upright.notes.size() == 1);
  // A JPEG that begins with two long comments.
  write_jpeg(folder.path / "plain.jpg", 200, 150, 3);
  const std::vector<uint8_t> plain = read_file((folder.path / "plain.jpg").string());
  std::string jpeg(text_of(plain));
  for (int i = 0; i < 2; ++i) jpeg.insert(2, std::string("\xff\xfe\xff\xff", 4) + std::string(65533, 'x'));
  for (const char* part : {"train/a/1.png", "val/a/1.png"}) {
    fs::remove(folder.path / part);
    write((folder.path / part).replace_extension(".jpg"), Bytes(jpeg.begin(), jpeg.end()));
  }
  CHECK(load_dataset(data, {.cache = 0}).image == Shape{1, 150, 200, 3});
}

TEST_CASE("folder: the digest knows labels, sizes and the beginning of files") {
  TemporaryFolder folder;
  write_photos(folder.path);
  const std::string data = "folder:" + folder.path.string();
  const DataOptions options{.image_size = 32};
  std::set<std::string> digests{digest(load_dataset(data, options))};
  CHECK(digests.insert(digest(load_dataset(data, {.image_size = 33}))).second);
  CHECK(digests.insert(digest(load_dataset(data, {.orientation = Orientation::apply, .image_size = 32}))).second);
  write_jpeg(folder.path / "train/b/3.jpg", 61, 61, 5);
  CHECK(digests.insert(digest(load_dataset(data, options))).second);
  fs::rename(folder.path / "train/b/3.jpg", folder.path / "train/c/30.jpg");
  CHECK(digests.insert(digest(load_dataset(data, options))).second);
  fs::rename(folder.path / "train/c/30.jpg", folder.path / "train/c/3z.jpg");  // its name is of no account, its place is
  CHECK(!digests.insert(digest(load_dataset(data, options))).second);
}

namespace {

// Mebibytes of memory that this process has.
double mebibytes_in_use() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  file >> all >> resident;
  return double(resident) * 4096 / (1 << 20);
}

}  // namespace

TEST_CASE("folder: 100,000 pictures begin in seconds and take no memory but their names") {
  TemporaryFolder folder;
  fs::create_directories(folder.path / "val/000");
  write_jpeg(folder.path / "picture.jpg", 64, 64, 1);
  // Links to few files, as a file has at most 65,000 of them.
  for (int c = 0; c < 100; ++c) {
    char name[16];
    std::snprintf(name, sizeof name, "%03d", c);
    const fs::path of_class = folder.path / "train" / name;
    fs::create_directories(of_class);
    fs::copy_file(folder.path / "picture.jpg", of_class / "0.jpg");
    for (int i = 1; i < 1000; ++i) fs::create_hard_link(of_class / "0.jpg", of_class / (std::to_string(i) + ".jpg"));
  }
  fs::rename(folder.path / "picture.jpg", folder.path / "val/000/0.jpg");
  const double before = mebibytes_in_use();
  const auto start = std::chrono::steady_clock::now();
  const Dataset dataset = load_dataset("folder:" + folder.path.string(), {.cache = 8 << 20});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK((dataset.train->size() == 100000 && dataset.classes == 100));
  const double indexed = mebibytes_in_use();
  const Batches batches(dataset.train, {.batch = 100, .shuffle = true, .seed = 1});
  Loader loader(batches, {InputSpec{"image", {dataset.image}}}, 0, 300);
  for (int i = 0; i < 100; ++i) loader.next();
  const double some = mebibytes_in_use();
  for (int i = 0; i < 200; ++i) loader.next();
  MESSAGE("100,000 pictures: ", seconds, " s to begin; MiB: ", indexed - before, " for the index, ", some - indexed, " for 10,000 images, ",
          mebibytes_in_use() - some, " for 20,000 more");
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  MESSAGE("time and memory are a sanitizer's here, and are not checked");
#else
  CHECK(seconds < 30);
  CHECK(indexed - before < 80);
  CHECK(mebibytes_in_use() - some < 8);
#endif
}

TEST_CASE("tiny-imagenet: its layout") {
  TemporaryFolder folder;
  const fs::path root = folder.path / "tiny-imagenet-200";
  for (const char* path : {"train/n01/images", "train/n02/images", "val/images", "test/images"}) fs::create_directories(root / path);
  write_jpeg(root / "train/n01/images/n01_0.JPEG", 64, 64, 1), write_jpeg(root / "train/n02/images/n02_0.JPEG", 64, 64, 2);
  write_jpeg(root / "val/images/val_0.JPEG", 64, 64, 3), write_jpeg(root / "val/images/val_1.JPEG", 64, 64, 4);
  write(root / "train/n01/n01_boxes.txt", {'x'}), write(root / "wnids.txt", {'x'});
  check_has(load_error("tiny-imagenet"), {"tiny-imagenet:DIR"});
  check_has(load_error("tiny-imagenet:" + (folder.path / "none").string()), {"is not there", "data/download tiny-imagenet"});
  check_has(load_error("tiny-imagenet:" + folder.path.string()), {"val_annotations.txt", "is not there"});
  const std::string annotations = "val_1.JPEG\tn01\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\n";
  write(root / "val/val_annotations.txt", Bytes(annotations.begin(), annotations.end()));
  for (const fs::path& path : {folder.path, root}) {
    const Dataset dataset = load_dataset("tiny-imagenet:" + path.string());
    CHECK((dataset.name == "tiny-imagenet" && dataset.image == Shape{1, 64, 64, 3} && dataset.classes == 2 && dataset.notes.empty()));
    CHECK((dataset.mean == std::vector<float>{.485f, .456f, .406f} && dataset.deviation == std::vector<float>{.229f, .224f, .225f}));
    int32_t labels[2];
    const int32_t both[] = {0, 1};
    dataset.test->read(1, both, 2, {.augmentation = {}}, labels);
    CHECK((labels[0] == 1 && labels[1] == 0));
  }
}

TEST_CASE("food101: its layout, and what is wrong") {
  TemporaryFolder folder;
  const fs::path root = folder.path / "food-101";
  for (const char* path : {"images/soup", "images/cake", "meta"}) fs::create_directories(root / path);
  for (int i = 0; i < 3; ++i)
    for (const char* name : {"soup", "cake"}) write_jpeg(root / "images" / name / (std::to_string(i) + ".jpg"), 50 + i, 40, i);
  const auto list = [&](const char* name, const std::string& text) { write(root / "meta" / name, Bytes(text.begin(), text.end())); };
  list("train.txt", "soup/1\ncake/0\ncake/2\n"), list("test.txt", "cake/1\r\nsoup/0\r\n");
  for (const fs::path& path : {folder.path, root}) {
    const Dataset dataset = load_dataset("food101:" + path.string(), {.image_size = 32});
    CHECK((dataset.name == "food101" && dataset.classes == 2 && dataset.train->size() == 3 && dataset.test->size() == 2));
    int32_t labels[3];
    const int32_t all[] = {0, 1, 2};
    dataset.train->read(1, all, 3, {.augmentation = {}}, labels);
    CHECK((labels[0] == 1 && labels[1] == 0 && labels[2] == 0));
    dataset.test->read(1, all, 2, {.augmentation = {}}, labels);
    CHECK((labels[0] == 0 && labels[1] == 1));
  }
  const std::string data = "food101:" + folder.path.string();
  check_has(load_error("food101"), {"food101:DIR"});
  check_has(load_error("food101:" + (folder.path / "none").string()), {"is not there", "data/download food101"});
  list("test.txt", "cake/1\nsoup\n");
  check_has(load_error(data), {"test.txt' line 2 is not CLASS/NAME"});
  list("test.txt", "cake/1\npie/1\n");
  check_has(load_error(data), {"test.txt' has a class 'pie'"});
  list("test.txt", "cake/7\n");
  check_has(load_error(data), {"cake/7.jpg'", "No such file"});
  list("test.txt", "\n");
  check_has(load_error(data), {"lists no pictures"});
  fs::remove(root / "meta/test.txt");
  check_has(load_error(data), {"test.txt'", "No such file"});
}

namespace {

constexpr const char* pillow_script = R"(
import pathlib, sys
from PIL import Image
root = pathlib.Path(sys.argv[1])
classes = sorted(path.name for path in (root / "train").iterdir())
labels = dict(line.split("\t")[:2] for line in (root / "val" / "val_annotations.txt").read_text().splitlines())
files = [(path, name) for name in classes for path in sorted((root / "train" / name / "images").iterdir())]
files += [(path, labels[path.name]) for path in sorted((root / "val" / "images").iterdir())]
for path, name in files:
    sys.stdout.buffer.write(bytes([classes.index(name)]) + Image.open(path).convert("RGB").tobytes())
)";

}  // namespace

TEST_CASE("tiny-imagenet: counts, labels and pixels of the real one as Pillow has them") {
  const char* directory = real_data("PIPECAST_TINY_IMAGENET", "Tiny-ImageNet, or a part of it with the same layout");
  if (directory == nullptr) return;
  const fs::path root = fs::exists(fs::path(directory) / "train") ? fs::path(directory) : fs::path(directory) / "tiny-imagenet-200";
  TemporaryFolder folder;
  std::ofstream(folder.path / "script.py") << pillow_script;
  FILE* pipe = popen(("python3 " + in_quotes(folder.path / "script.py") + " " + in_quotes(root)).c_str(), "r");
  REQUIRE(pipe != nullptr);
  const Dataset dataset = load_dataset(std::string("tiny-imagenet:") + directory);
  std::vector<float> image(size_t(dataset.image.count()));
  Bytes record(1 + image.size()), pixels(image.size());
  int64_t wrong_labels = 0, compared = 0, different = 0;
  int most = 0;
  for (const Samples* samples : {dataset.train.get(), dataset.test.get()})
    for (int32_t i = 0; i < samples->size(); ++i) {
      if (fread(record.data(), 1, record.size(), pipe) != record.size()) break;
      samples->read(0, &i, 1, {.augmentation = {}}, image.data());
      int32_t label = 0;
      samples->read(1, &i, 1, {.augmentation = {}}, &label);
      wrong_labels += label != record[0], ++compared;
      for (size_t j = 0; j < image.size(); ++j) {
        const int difference =
            std::abs(int(std::lround((image[j] * dataset.deviation[j % 3] + dataset.mean[j % 3]) * 255)) - int(record[1 + j]));
        most = std::max(most, difference), different += difference > 0;
      }
    }
  const bool ended = fread(record.data(), 1, 1, pipe) == 0;
  if (pclose(pipe) != 0 && compared == 0) {
    MESSAGE("skipped: python3 with Pillow is needed to compare with");
    return;
  }
  MESSAGE(compared, " pictures compared, by ", std::string(jpeg_decoder()), ": the largest difference is ", most,
          ", pixels that differ: ", different);
  CHECK((ended && compared == dataset.train->size() + dataset.test->size()));
  CHECK(wrong_labels == 0);
  CHECK(most <= (have_libjpeg ? 1 : 8));
}
