// Data sets of pictures other than CIFAR-10 and folders, and what training does to pictures.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "data_files.h"
#include "data/pictures.h"
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
  if (folder == nullptr) MESSAGE("skipped: set ", variable, " to a folder with ", what);
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
  PictureSet dataset{.name = "white", .image = shape, .classes = 1, .train = {}, .test = {}, .mean = {.5f, .4f, .3f}, .deviation = {.1f, .2f, .3f}};
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
