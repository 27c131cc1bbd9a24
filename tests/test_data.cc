#include <doctest/doctest.h>
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <set>

#include "data/decoders.h"
#include "data/loader.h"
#include "data/picture.h"
#include "data_files.h"
#include "engine/error.h"
#include "engine/files/checksum.h"
#include "engine/files/durable_file.h"
#include "engine/files/safetensors.h"
#include "engine/random.h"
#include "picture_batches.h"

using namespace pipecast;
using namespace pipecast::testing;
namespace fs = std::filesystem;

namespace {

constexpr size_t record = 3073;

// `count` records with labels (start + i) % 10 and random pixels.
Bytes records(size_t count, uint64_t stream) {
  Bytes bytes(count * record);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i % record == 0 ? uint8_t((stream + i / record) % 10) : random_byte(stream, i);
  return bytes;
}

const std::vector<std::string> files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                        "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};

// File f holds f + 1 records.
void write_cifar10(const fs::path& folder) {
  for (size_t f = 0; f < files.size(); ++f) write(folder / files[f], records(f + 1, f));
}

std::string load_error(const fs::path& folder) {
  return usage_error([&] { load_dataset("cifar10:" + folder.string()); });
}
std::string folder_error(const fs::path& folder) {
  return usage_error([&] { load_dataset("folder:" + folder.string()); });
}

std::string encoded_png(const Bytes& pixels, int width, int height, int channels) {
  int size = 0;
  unsigned char* png = stbi_write_png_to_mem(pixels.data(), width * channels, width, height, channels, &size);
  const std::string file(reinterpret_cast<const char*>(png), size_t(size));
  std::free(png);
  return file;
}
// Of a PNG, with its checksum.
std::string big_endian(uint32_t number) { return {char(number >> 24), char(number >> 16), char(number >> 8), char(number)}; }
std::string chunk(const std::string& name, const std::string& content) {
  const std::string checked = name + content;
  return big_endian(uint32_t(content.size())) + checked + big_endian(crc32(checked.data(), checked.size()));
}
// 8 x 6, red, green and blue.
Bytes picture_pixels(uint64_t number) {
  Bytes pixels(6 * 8 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = random_byte(500 + number, i);
  return pixels;
}
Bytes smooth_pixels() {
  Bytes pixels(6 * 8 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = uint8_t(100 + i / 3);
  return pixels;
}
Bytes png(const Bytes& pixels) {
  const std::string file = encoded_png(pixels, 8, 6, 3);
  return {file.begin(), file.end()};
}
void write_folder(const fs::path& folder) {
  for (const char* path : {"train/cat", "train/dog", "val/dog"}) fs::create_directories(folder / path);
  write(folder / "train/cat/1.png", png(picture_pixels(1)));
  write(folder / "train/cat/2.PNG", png(picture_pixels(2)));
  write(folder / "train/cat/notes.txt", {'n', 'o'});
  write(folder / "train/dog/1.png", png(picture_pixels(3)));
  REQUIRE(stbi_write_jpg((folder / "val/dog/1.jpg").c_str(), 8, 6, 3, smooth_pixels().data(), 100) != 0);
}

// The bytes that images without augmentation were made of.
Pictures in_memory(const Samples& samples, const Dataset& dataset) {
  Pictures pictures;
  std::vector<float> image(size_t(dataset.image.count()));
  for (int32_t i = 0; i < samples.size(); ++i) {
    samples.read(0, &i, 1, {.augmentation = {}}, image.data());
    for (size_t j = 0; j < image.size(); ++j)
      pictures.pixels.push_back(uint8_t(std::lround((image[j] * dataset.deviation[j % 3] + dataset.mean[j % 3]) * 255)));
    samples.read(1, &i, 1, {.augmentation = {}}, &pictures.labels.emplace_back());
  }
  return pictures;
}
PictureSet in_memory(const Dataset& dataset) {
  return {dataset.name,
          dataset.image,
          dataset.classes,
          in_memory(*dataset.train, dataset),
          in_memory(*dataset.test, dataset),
          dataset.mean,
          dataset.deviation,
          dataset.skipped,
          dataset.notes};
}

// What the format yields before it becomes columns.
PictureSet load_pictures(const std::string& format_and_path, BadSamples bad_samples = BadSamples::fail) {
  const size_t colon = format_and_path.find(':');
  const std::string format = format_and_path.substr(0, colon);
  const std::string argument = colon == std::string::npos ? "" : format_and_path.substr(colon + 1);
  if (format == "cifar10") return load_cifar(Cifar::ten, argument, bad_samples);
  return format == "folder" ? in_memory(load_folder(argument, {.bad_samples = bad_samples})) : generate_shapes(argument);
}

// Pictures whose first pixel holds the picture's number, so that it can be recognised.
PictureSet numbered(int64_t size, Shape image = {1, 6, 5, 3}) {
  PictureSet dataset{.name = "numbered", .image = image, .classes = 10, .train = {}, .test = {}, .mean = {}, .deviation = {}, .skipped = 0};
  for (int64_t c = 0; c < image.c; ++c) {
    dataset.mean.push_back(.4f + .1f * float(c));
    dataset.deviation.push_back(.2f + .03f * float(c));
  }
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < image.count(); ++j)
      dataset.train.pixels.push_back(j == 0 ? uint8_t(i) : random_byte(100 + uint64_t(i), uint64_t(j)));
    dataset.train.labels.push_back(int32_t(i % 10));
  }
  return dataset;
}

float normalised(const PictureSet& dataset, int byte, int64_t c) {
  return (float(byte) / 255 - dataset.mean[size_t(c)]) / dataset.deviation[size_t(c)];
}

// Which picture of numbered() an image without augmentation is.
int number(const PictureSet& dataset, float first) { return int(std::lround((first * dataset.deviation[0] + dataset.mean[0]) * 255)); }

// All images of one epoch, mini-batch after mini-batch.
std::vector<float> epoch_images(const PictureSet& dataset, PictureBatches batches, int64_t epoch) {
  std::vector<float> all(size_t(dataset.train.size() * dataset.image.count()), NAN);
  float* to = all.data();
  for (int64_t b = 0; b < batches.per_epoch(); ++b) {
    const int64_t index = epoch * batches.per_epoch() + b;
    batches.images(index, to);
    to += batches.size(index) * dataset.image.count();
  }
  CHECK(to == all.data() + all.size());
  return all;
}

std::vector<int> epoch_order(const PictureSet& dataset, const PictureBatches& batches, int64_t epoch) {
  const std::vector<float> images = epoch_images(dataset, batches, epoch);
  std::vector<int> order;
  for (size_t i = 0; i < images.size(); i += size_t(dataset.image.count())) order.push_back(number(dataset, images[i]));
  return order;
}

}  // namespace

TEST_CASE("cifar10: every byte arrives where it belongs") {
  TemporaryFolder folder;
  write_cifar10(folder.path);
  const PictureSet dataset = load_pictures("cifar10:" + folder.path.string());
  CHECK(dataset.name == "cifar10");
  CHECK(dataset.image == Shape{1, 32, 32, 3});
  CHECK(dataset.classes == 10);
  CHECK(dataset.mean == std::vector<float>{.4914f, .4822f, .4465f});
  CHECK(dataset.deviation == std::vector<float>{.2023f, .1994f, .2010f});
  REQUIRE(dataset.train.size() == 15);
  REQUIRE(dataset.test.size() == 6);
  REQUIRE(dataset.train.pixels.size() == 15 * 3072);
  REQUIRE(dataset.test.pixels.size() == 6 * 3072);
  int64_t wrong = 0, picture = 0;
  for (size_t f = 0; f < 6; ++f) {
    if (f == 5) picture = 0;
    const Pictures& pictures = f == 5 ? dataset.test : dataset.train;
    const Bytes bytes = records(f + 1, f);
    for (size_t i = 0; i <= f; ++i, ++picture) {
      wrong += pictures.labels[size_t(picture)] != bytes[i * record];
      for (size_t c = 0; c < 3; ++c)
        for (size_t y = 0; y < 32; ++y)
          for (size_t x = 0; x < 32; ++x)
            wrong += pictures.pixels[((size_t(picture) * 32 + y) * 32 + x) * 3 + c] != bytes[i * record + 1 + c * 1024 + y * 32 + x];
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("cifar10: the folder or its parent") {
  TemporaryFolder parent;
  fs::create_directory(parent.path / "cifar-10-batches-bin");
  write_cifar10(parent.path / "cifar-10-batches-bin");
  CHECK(load_pictures("cifar10:" + parent.path.string()).train.size() == 15);
  CHECK(load_pictures("cifar10:" + (parent.path / "cifar-10-batches-bin").string()).train.size() == 15);
  CHECK(load_pictures("cifar10:" + parent.path.string() + "/").train.size() == 15);
}

TEST_CASE("cifar10: what is wrong is named") {
  TemporaryFolder folder;
  check_has(usage_error([] { load_dataset("cifar10"); }), {"cifar10:DIR"});
  check_has(usage_error([] { load_dataset("cifar10:"); }), {"cifar10:DIR"});
  check_has(load_error(folder.path / "nowhere"), {(folder.path / "nowhere").string(), "not there"});
  check_has(load_error(folder.path), {"data_batch_1.bin", "missing"});
  for (const std::string& file : files) {
    INFO(file);
    const fs::path path = folder.path / file;
    write_cifar10(folder.path);
    CHECK(load_error(folder.path) == "no UsageError");

    fs::remove(path);
    check_has(load_error(folder.path), {path.string(), "missing"});
    fs::create_directory(path);
    check_has(load_error(folder.path), {path.string(), "not a regular file"});
    fs::remove(path);
    write(path, {});
    check_has(load_error(folder.path), {path.string(), "truncated", "0 bytes", "3073"});
    Bytes bytes = records(3, 1);
    bytes.pop_back();
    write(path, bytes);
    check_has(load_error(folder.path), {path.string(), "truncated", "9218 bytes", "3073"});
    bytes = records(3, 1);
    bytes[2 * record] = 10;
    write(path, bytes);
    check_has(load_error(folder.path), {path.string(), "record 2", "label 10"});
    bytes[2 * record] = 255;
    write(path, bytes);
    check_has(load_error(folder.path), {path.string(), "record 2", "label 255"});
    if (geteuid() != 0) {  // root reads everything
      fs::permissions(path, fs::perms::none);
      check_has(load_error(folder.path), {path.string(), "cannot read"});
      fs::permissions(path, fs::perms::owner_all);
    }
  }
}

TEST_CASE("cifar10: bad labels are skipped and counted where that is asked for") {
  TemporaryFolder folder;
  write_cifar10(folder.path);
  Bytes bytes = records(3, 1);
  bytes[record] = 10;
  write(folder.path / files[2], bytes);
  check_has(load_error(folder.path), {"record 1", "label 10", "--bad-samples skip"});
  const PictureSet dataset = load_pictures("cifar10:" + folder.path.string(), BadSamples::skip);
  CHECK(dataset.skipped == 1);
  CHECK(dataset.train.size() == 14);
  CHECK(dataset.train.pixels.size() == 14 * (record - 1));
  CHECK(dataset.train.labels[3] == 1);  // after the files of one and two records
  CHECK(dataset.train.labels[4] == 3);
  CHECK(dataset.train.pixels[4 * (record - 1)] == bytes[2 * record + 1]);
  bytes.pop_back();  // a truncated file is more than a bad sample
  write(folder.path / files[2], bytes);
  check_has(usage_error([&] { load_dataset("cifar10:" + folder.path.string(), {.bad_samples = BadSamples::skip}); }), {"truncated"});
  CHECK(load_pictures("generated:40", BadSamples::skip).skipped == 0);
  CHECK(bad_samples_mode("fail") == BadSamples::fail);
  CHECK(bad_samples_mode("skip") == BadSamples::skip);
  check_has(usage_error([] { bad_samples_mode("skpi"); }), {"'skpi'", "did you mean 'skip'?"});
}

TEST_CASE("cifar10: random bytes and random lengths are read or refused, never a crash") {
  TemporaryFolder folder;
  write_cifar10(folder.path);
  const Random random{11, purpose("fuzz"), 0};
  int refused = 0, accepted = 0;
  for (uint64_t round = 0; round < 150; ++round) {
    const size_t f = random.below(4 * round, 6);
    const fs::path path = folder.path / files[f];
    Bytes bytes = records(2, round);
    switch (round % 3) {
      case 0: bytes.resize(random.below(4 * round + 1, uint32_t(bytes.size()))); break;
      case 1: bytes[random.below(4 * round + 1, 2) * record] = random_byte(round, 4 * round + 2); break;
      default:
        bytes.resize(random.below(4 * round + 1, 3) * record + random.below(4 * round + 2, 2));
        for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = random_byte(1000 + round, i);
    }
    bool legal = !bytes.empty() && bytes.size() % record == 0;
    for (size_t i = 0; i < bytes.size(); i += record) legal = legal && bytes[i] < 10;
    write(path, bytes);
    const std::string error = load_error(folder.path);
    CHECK((error == "no UsageError") == legal);
    (legal ? accepted : refused)++;
    if (!legal) check_has(error, {path.string()});
    write(path, records(f + 1, f));
  }
  CHECK(refused > 0);
  CHECK(accepted > 0);
}

TEST_CASE("cifar10: the real one") {
  const char* folder = std::getenv("PIPECAST_CIFAR10");
  if (folder == nullptr) {
    MESSAGE("skipped: set PIPECAST_CIFAR10 to a folder with CIFAR-10 (binary version)");
    return;
  }
  const PictureSet dataset = load_pictures(std::string("cifar10:") + folder);
  for (const Pictures* pictures : {&dataset.train, &dataset.test}) {
    std::vector<int64_t> counts(10);
    for (int32_t label : pictures->labels) ++counts[size_t(label)];
    CHECK(*std::min_element(counts.begin(), counts.end()) > pictures->size() / 20);
    for (size_t c = 0; c < 3; ++c) {
      double sum = 0;
      for (size_t i = c; i < pictures->pixels.size(); i += 3) sum += pictures->pixels[i];
      CHECK(sum / 255 / double(pictures->pixels.size() / 3) == doctest::Approx(dataset.mean[c]).epsilon(.03));
    }
  }
}

TEST_CASE("folder: PNG to the byte, JPEG nearly, classes by name, mean and deviation of what was read") {
  TemporaryFolder folder;
  write_folder(folder.path);
  const PictureSet dataset = load_pictures("folder:" + folder.path.string());
  CHECK(dataset.image == Shape{1, 6, 8, 3});
  CHECK(dataset.classes == 2);
  CHECK(dataset.skipped == 0);
  CHECK(dataset.train.labels == std::vector<int32_t>{0, 0, 1});  // cat/1.png, cat/2.PNG, dog/1.png
  CHECK(dataset.test.labels == std::vector<int32_t>{1});         // dog/1.jpg
  Bytes expected = picture_pixels(1);
  for (uint64_t number : {2, 3})
    for (uint8_t byte : picture_pixels(number)) expected.push_back(byte);
  CHECK(dataset.train.pixels == expected);
  const Bytes smooth = smooth_pixels();
  for (size_t i = 0; i < smooth.size(); ++i) CHECK(std::abs(int(dataset.test.pixels[i]) - int(smooth[i])) <= 8);
  for (size_t c = 0; c < 3; ++c) {
    double sum = 0, squares = 0, n = double(expected.size()) / 3;
    for (size_t i = c; i < expected.size(); i += 3) sum += expected[i] / 255., squares += expected[i] / 255. * expected[i] / 255.;
    CHECK(dataset.mean[c] == doctest::Approx(sum / n));
    CHECK(dataset.deviation[c] == doctest::Approx(std::sqrt(squares / n - sum / n * sum / n)));
  }
}

TEST_CASE("folder: grey, transparent and deep pictures become red, green and blue") {
  TemporaryFolder folder;
  write_folder(folder.path);
  const Bytes grey = {0, 50, 100, 255};
  for (const int channels : {1, 2, 4}) {
    Bytes bytes;
    for (uint8_t value : grey)
      for (int c = 0; c < channels; ++c) bytes.push_back(channels % 2 == 0 && c + 1 == channels ? 17 : value);
    const std::string file = encoded_png(bytes, 2, 2, channels);
    CHECK(picture_format(file, "p").shape == Shape{1, 2, 2, 3});
    Bytes pixels(12);
    decode_picture(file, "p", {1, 2, 2, 3}, pixels.data());
    for (size_t i = 0; i < 12; ++i) CHECK(pixels[i] == grey[i / 3]);
  }
  // A channel that never changes is divided by 1.
  for (const char* path : {"train/cat/1.png", "train/cat/2.PNG", "train/dog/1.png"}) write(folder.path / path, png(Bytes(6 * 8 * 3, 51)));
  const PictureSet dataset = load_pictures("folder:" + folder.path.string());
  CHECK(dataset.mean[0] == doctest::Approx(.2));
  CHECK(dataset.deviation == std::vector<float>{1, 1, 1});
}

TEST_CASE("folder: Tiny-ImageNet's layout") {
  TemporaryFolder folder;
  for (const char* path : {"train/n01/images", "train/n02/images", "val/images", "test/images"}) fs::create_directories(folder.path / path);
  write(folder.path / "train/n01/images/n01_0.JPEG", png(picture_pixels(1)));  // the content says what it is, not the name
  write(folder.path / "train/n02/images/n02_0.JPEG", png(picture_pixels(2)));
  write(folder.path / "val/images/val_0.JPEG", png(picture_pixels(3)));
  write(folder.path / "val/images/val_1.JPEG", png(picture_pixels(4)));
  write(folder.path / "test/images/test_0.JPEG", png(picture_pixels(5)));  // without a class
  auto annotate = [&](const std::string& text) { write(folder.path / "val/val_annotations.txt", Bytes(text.begin(), text.end())); };
  annotate("val_1.JPEG\tn01\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\n");
  const PictureSet dataset = load_pictures("folder:" + folder.path.string());
  CHECK(dataset.train.labels == std::vector<int32_t>{0, 1});
  CHECK(dataset.test.labels == std::vector<int32_t>{1, 0});
  CHECK(dataset.test.pixels[0] == picture_pixels(3)[0]);
  CHECK(dataset.notes.empty());
  // Its val folder is often sorted into classes, and the list stays.
  fs::create_directories(folder.path / "val/n01");
  fs::rename(folder.path / "val/images/val_1.JPEG", folder.path / "val/n01/val_1.JPEG");
  annotate("\uFEFFval_1.JPEG\tn01\nval_0.JPEG\tn02\nval_2.JPEG\tn02\n");  // with a byte order mark
  const PictureSet sorted = load_pictures("folder:" + folder.path.string());
  CHECK(sorted.test.labels == std::vector<int32_t>{1, 0});
  CHECK(sorted.notes == std::vector<std::string>{"pictures that '" + (folder.path / "val/val_annotations.txt").string() +
                                                 "' names and that are not there: 1 ('val_2.JPEG')"});
  annotate("val_1.JPEG\tn01\n");
  check_has(folder_error(folder.path), {"val_annotations.txt", "no class for", "val_0.JPEG"});
  annotate("val_1.JPEG\tn01\nval_0.JPEG\tn03\n");
  check_has(folder_error(folder.path), {"val_annotations.txt", "class 'n03'"});
  annotate("val_1.JPEG n01\n");
  check_has(folder_error(folder.path), {"val_annotations.txt' line 1"});
  annotate("val_1.JPEG\tn01\n\nval_1.JPEG\tn02\n");
  check_has(folder_error(folder.path), {"line 3", "'val_1.JPEG' a second time"});
}

TEST_CASE("folder: what is wrong is named") {
  TemporaryFolder folder;
  check_has(usage_error([] { load_dataset("folder"); }), {"folder:DIR"});
  check_has(folder_error(folder.path), {(folder.path / "train").string(), "not there"});
  fs::create_directories(folder.path / "train");
  check_has(folder_error(folder.path), {"neither", (folder.path / "val").string(), (folder.path / "test").string()});
  fs::create_directories(folder.path / "val");
  check_has(folder_error(folder.path), {"'" + (folder.path / "train").string() + "' holds no pictures"});
  write_folder(folder.path);
  CHECK(folder_error(folder.path) == "no UsageError");
  fs::create_directories(folder.path / "val/cow");
  write(folder.path / "val/cow/1.png", png(picture_pixels(1)));
  check_has(folder_error(folder.path), {"val/cow", "class 'cow'", "no folder in train"});
  fs::remove_all(folder.path / "val/cow");

  // A picture of another size is a mistake of the data set, whatever becomes of bad samples.
  const fs::path path = folder.path / "train/cat/2.PNG";
  const std::string small = encoded_png(Bytes(2 * 2 * 3), 2, 2, 3);
  write(path, Bytes(small.begin(), small.end()));
  for (BadSamples bad_samples : {BadSamples::fail, BadSamples::skip})
    check_has(usage_error([&] { load_dataset("folder:" + folder.path.string(), {.bad_samples = bad_samples}); }),
              {path.string(), "is 2 x 2", "is 8 x 6", "make all pictures of one size"});

  // Damaged ones are named, or skipped and counted.
  Bytes bytes = png(picture_pixels(2));
  bytes.resize(bytes.size() / 2);
  for (const Bytes& damaged : {bytes, Bytes{'n', 'o'}, Bytes{}}) {
    write(path, damaged);
    check_has(folder_error(folder.path), {path.string(), "--bad-samples skip"});
    const PictureSet dataset = load_pictures("folder:" + folder.path.string(), BadSamples::skip);
    CHECK(dataset.skipped == 1);
    CHECK(dataset.train.labels == std::vector<int32_t>{0, 1});
    CHECK(Bytes(dataset.train.pixels.begin() + 144, dataset.train.pixels.end()) == picture_pixels(3));
  }
  write(folder.path / "val/dog/1.jpg", Bytes(100));
  check_has(usage_error([&] { load_dataset("folder:" + folder.path.string(), {.bad_samples = BadSamples::skip}); }),
            {"all 1 pictures are damaged", "1.jpg"});
}

TEST_CASE("folder: what is hidden is no data") {
  TemporaryFolder folder;
  write_folder(folder.path);
  const std::string plain = digest(load_dataset("folder:" + folder.path.string()));
  for (const char* path : {"train/.ipynb_checkpoints", "train/cat/.thumbnails", "val/.git"}) fs::create_directories(folder.path / path);
  for (const char* path : {"train/._cat", "train/cat/._1.png", "train/cat/.thumbnails/1.png", "val/.DS_Store", "val/dog/._1.jpg"})
    write(folder.path / path, {'n', 'o'});
  const Dataset dataset = load_dataset("folder:" + folder.path.string());
  CHECK(dataset.classes == 2);
  CHECK(digest(dataset) == plain);
  CHECK(dataset.skipped == 0);
}

TEST_CASE("folder: pictures in folders below a class are taken, what is left out is counted") {
  TemporaryFolder folder;
  write_folder(folder.path);
  using Notes = std::vector<std::string>;
  const std::string empty = "classes without pictures in '" + (folder.path / "val").string() + "': 1 ('cat')";
  CHECK(load_dataset("folder:" + folder.path.string()).notes == Notes{empty, "files of other types left out: 1 (.txt 1)"});
  fs::create_directories(folder.path / "train/dog/images/puppies");
  write(folder.path / "train/dog/images/puppies/1.png", png(picture_pixels(4)));
  write(folder.path / "train/dog/images/2.png", png(picture_pixels(5)));
  for (const char* path : {"train/cat/3.BMP", "train/cat/4.bmp", "train/dog/images/1.webp", "val/dog/1.gif", "val/dog/1", "train/astray.png"})
    write(folder.path / path, {'n', 'o'});
  fs::create_directories(folder.path / "val/cat");
  write(folder.path / "val/cat/1.png", png(picture_pixels(6)));
  const PictureSet dataset = load_pictures("folder:" + folder.path.string());
  CHECK(dataset.train.labels == std::vector<int32_t>{0, 0, 1, 1, 1});
  // In the order of the names: dog/1.png, dog/images/2.png, dog/images/puppies/1.png.
  for (const auto& [picture, number] : {std::pair<size_t, uint64_t>{2, 3}, {3, 5}, {4, 4}})
    CHECK(std::equal(&dataset.train.pixels[picture * 144], &dataset.train.pixels[picture * 144] + 144, picture_pixels(number).begin()));
  CHECK(dataset.notes == Notes{"files of other types left out: 6 (.bmp 2, no ending 1, .gif 1, .txt 1, .webp 1)",
                               "files beside the class folders left out: 1"});
}

TEST_CASE("folder: a class without pictures is refused") {
  TemporaryFolder folder;
  write_folder(folder.path);
  fs::create_directories(folder.path / "train/cow/calves");
  check_has(folder_error(folder.path), {"'" + (folder.path / "train/cow").string() + "' holds no pictures (PNG or JPEG)", "remove it"});
  write(folder.path / "train/cow/1.bmp", {'n', 'o'});
  check_has(folder_error(folder.path), {"'" + (folder.path / "train/cow").string() + "' holds no pictures (PNG or JPEG)"});
  // One that --bad-samples skip would empty.
  write(folder.path / "train/cow/1.png", {'n', 'o'});
  check_has(usage_error([&] { load_dataset("folder:" + folder.path.string(), {.bad_samples = BadSamples::skip}); }),
            {"all pictures of the class of '" + (folder.path / "train/cow/1.png").string() + "' are damaged"});
  write(folder.path / "train/cow/1.png", png(picture_pixels(4)));
  write(folder.path / "train/cow/2.png", {'n', 'o'});
  CHECK(load_dataset("folder:" + folder.path.string(), {.bad_samples = BadSamples::skip}).skipped == 1);
  fs::create_directories(folder.path / "val/cow");
  write(folder.path / "val/cow/1.png", {'n', 'o'});
  check_has(usage_error([&] { load_dataset("folder:" + folder.path.string(), {.bad_samples = BadSamples::skip}); }),
            {"all pictures of the class of '" + (folder.path / "val/cow/1.png").string() + "' are damaged"});
}

TEST_CASE("folder: pictures that are stored turned are counted, and turned where that is asked for") {
  TemporaryFolder folder;
  for (const char* path : {"train/a", "val/a"}) {
    fs::create_directories(folder.path / path);
    for (const char* name : {"exif.png", "exif.jpg"})
      fs::copy_file(fs::path(GOLDEN_DIR) / "../fuzz/corpus/picture" / name, folder.path / path / name);
  }
  const std::string name = "folder:" + folder.path.string(), note = "pictures whose EXIF data say that they are stored turned or mirrored: 4, ";
  const Dataset stored = load_dataset(name), upright = load_dataset(name, {.orientation = Orientation::apply});
  CHECK(stored.image == Shape{1, 7, 9, 3});
  CHECK(stored.notes == std::vector<std::string>{note + "taken as stored; --orientation apply turns them upright"});
  CHECK(upright.image == Shape{1, 9, 7, 3});
  CHECK(upright.notes == std::vector<std::string>{note + "turned upright"});
  CHECK(orientation_mode("ignore") == Orientation::ignore);
  CHECK(orientation_mode("apply") == Orientation::apply);
  check_has(usage_error([] { orientation_mode("aply"); }), {"'aply'", "did you mean 'apply'?"});
}

TEST_CASE("folder: symbolic links are followed, and named where they lead nowhere or round in circles") {
  TemporaryFolder folder, elsewhere;
  write_folder(folder.path);
  fs::create_directories(elsewhere.path / "cows");
  write(elsewhere.path / "cows/1.png", png(picture_pixels(4)));
  fs::create_symlink(elsewhere.path / "cows", folder.path / "train/cow");
  fs::create_symlink(elsewhere.path / "cows", folder.path / "train/dog/more");
  fs::create_symlink(elsewhere.path / "cows/1.png", folder.path / "train/cat/3.png");
  CHECK(load_pictures("folder:" + folder.path.string()).train.labels == std::vector<int32_t>{0, 0, 0, 1, 2, 2});

  const auto refused = [&](const fs::path& target, const fs::path& link, std::initializer_list<std::string> parts) {
    fs::create_symlink(target, link);
    const std::string error = folder_error(folder.path);
    check_has(error, {"'" + (folder.path / "train").string()});
    check_has(error, parts);
    fs::remove(link);
  };
  const fs::path inside = folder.path / "train/dog/loop", beside = folder.path / "train/loop", back = elsewhere.path / "cows/back";
  for (const fs::path& link : {inside, beside}) {
    refused("loop", link, {"symbolic link '" + link.string() + "' leads nowhere", "Too many levels", "take it out"});
    refused("gone", link, {"symbolic link '" + link.string() + "' leads nowhere", "No such file", "take it out"});
    for (const fs::path& target : {folder.path, folder.path / "train"})
      refused(target, link, {"symbolic link '" + link.string() + "' leads back to", "take the link out"});
  }
  refused(folder.path / "train/dog", inside, {"symbolic link '" + inside.string() + "' leads back to"});
  refused(folder.path / "train/dog", back, {"/back", "/more' leads back to"});
  // One that should be a picture is a bad sample.
  fs::create_symlink("loop.png", folder.path / "train/dog/loop.png");
  check_has(folder_error(folder.path), {(folder.path / "train/dog/loop.png").string(), "Too many levels"});
  CHECK(load_dataset("folder:" + folder.path.string(), {.bad_samples = BadSamples::skip}).skipped == 1);
}

TEST_CASE("picture: a JPEG's scans may be split, spectrally and by restarts; it is the same picture") {
  Bytes first;
  for (const char* name : {"slopes.jpg", "slopes_restarts.jpg", "slopes_progressive.jpg", "slopes_progressive_restarts.jpg"}) {
    CAPTURE(name);
    const std::vector<uint8_t> file = read_file((fs::path(GOLDEN_DIR) / "../fuzz/corpus/picture" / name).string());
    REQUIRE(picture_format(text_of(file), name).shape == Shape{1, 26, 35, 3});
    Bytes pixels(26 * 35 * 3);
    decode_picture(text_of(file), name, {1, 26, 35, 3}, pixels.data());
    if (first.empty()) first = pixels;
    CHECK(pixels == first);
    // Cut within the last scan, with the end marked again: it is decoded as far as it goes, or refused.
    for (size_t left = 2; left < 200; ++left) {
      std::string cut(text_of(file).substr(0, file.size() - left));
      cut += "\xff\xd9";
      try {
        decode_picture(cut, name, {1, 26, 35, 3}, pixels.data());
      } catch (const UsageError&) {
      }
    }
  }
  double difference = 0;
  for (int y = 0; y < 26; ++y)
    for (int x = 0; x < 35; ++x) {
      const int colour[] = {x * 7, y * 9, 255 - 4 * (x + y)};
      for (int c = 0; c < 3; ++c) difference += std::abs(first[size_t((y * 35 + x) * 3 + c)] - colour[c]);
    }
  CHECK(difference / double(first.size()) < 5);
}

TEST_CASE("picture: what the decoder must not see is refused") {
  const fs::path corpus = fs::path(GOLDEN_DIR) / "../fuzz/corpus/picture";
  const std::vector<uint8_t> file = read_file((corpus / "baseline.jpg").string());
  auto refusal = [](const std::string& changed) { return usage_error([&] { picture_format(changed, "p"); }); };
  CHECK(refusal(std::string(text_of(file))) == "no UsageError");
  std::string codes(text_of(file)), length = codes;
  const size_t table = codes.find("\xff\xc4");
  REQUIRE(table != std::string::npos);
  for (size_t i = 0; i < 2; ++i) codes[table + 5 + 14 + i] = '\xff';  // 510 codes of 15 and 16 bits
  check_has(refusal(codes), {"neither a whole PNG nor a whole JPEG"});
  // In a segment that ends before its table does, by what stands behind it.
  std::string early(text_of(file));
  early.insert(table, std::string("\xff\xc4\0\3\0", 5) + std::string(16, '\x7f'));
  check_has(refusal(early), {"neither a whole PNG nor a whole JPEG"});
  length[table + 2] = '\x7f';
  check_has(refusal(length), {"neither a whole PNG nor a whole JPEG"});

  // Components with the letters R, G, B: in a JFIF file they are YCbCr all the same, says libjpeg.
  std::string letters(text_of(file));
  const size_t frame = letters.find("\xff\xc0"), scan = letters.find("\xff\xda"), jfif = letters.find("JFIF");
  for (size_t k = 0; k < 3; ++k) letters[frame + 10 + 3 * k] = letters[scan + 5 + 2 * k] = "RGB"[k];
  check_has(refusal(letters), {"says both that its colours are RGB and that they are YCbCr"});
  letters[jfif] = 'j';
  CHECK(refusal(letters) == "no UsageError");

  std::string empty = encoded_png(Bytes(2 * 2 * 3), 2, 2, 3);
  CHECK(refusal(empty) == "no UsageError");
  check_has(refusal(empty.substr(0, empty.size() - 12)), {"neither a whole PNG nor a whole JPEG"});
  // Data that begin with an empty chunk are legal.
  Bytes pixels(12, 7);
  empty.insert(33, chunk("IDAT", ""));
  decode_picture(empty, "p", {1, 2, 2, 3}, pixels.data());
  CHECK(pixels == Bytes(12));
}

TEST_CASE("picture: a PNG with any bit flipped in what its pixels depend on is refused") {
  const Bytes pixels = smooth_pixels();
  std::string file = encoded_png(pixels, 8, 6, 3);
  file.insert(33, chunk("tEXt", "a comment"));
  const auto decode = [&](const std::string& changed) {
    Bytes decoded(6 * 8 * 3);
    const std::string error = usage_error([&] { decode_picture(changed, "p.png", {1, 6, 8, 3}, decoded.data()); });
    return decoded == pixels ? "the same picture" : error;
  };
  CHECK(decode(file) == "the same picture");
  const size_t comment = file.find("tEXt") - 4;
  for (size_t bit = 8 * 8; bit < 8 * file.size(); ++bit) {
    const size_t at = bit / 8;
    std::string changed = file;
    changed[at] ^= char(1 << bit % 8);
    INFO("bit ", bit % 8, " of byte ", at);
    // A comment may be damaged, and what its name becomes is ignored unless it begins with a capital.
    if (at >= comment + 5 && at < comment + 12 + 9) CHECK(decode(changed) == "the same picture");
    else if (at != comment + 4) check_has(decode(changed), {"picture 'p.png' is "});
  }
  check_has(decode(file.substr(0, file.size() - 1)), {"neither a whole PNG"});

  // Wrong data under a right checksum of their chunk: zlib's own is looked at as well.
  const size_t data = file.find("IDAT") - 4, size = file.size() - 12 - data - 12;
  // Only the bits that fill the last byte of the packed data up mean nothing.
  int same = 0;
  for (size_t bit = 0; bit < 8 * size; ++bit) {
    std::string content = file.substr(data + 8, size);
    content[bit / 8] ^= char(1 << bit % 8);
    const std::string error = decode(file.substr(0, data) + chunk("IDAT", content) + chunk("IEND", ""));
    same += error == "the same picture";
    CHECK(error != "no UsageError");
  }
  CHECK(same < 8);
  // In several chunks, with bytes after the end of the data.
  std::string split = file.substr(0, data);
  for (size_t at = 0; at < size; at += 7) split += chunk("IDAT", file.substr(data + 8 + at, std::min<size_t>(7, size - at)));
  CHECK(decode(split + chunk("IDAT", "more") + chunk("IEND", "")) == "the same picture");
  check_has(decode(file.substr(0, data) + chunk("CgBI", "1234") + file.substr(data)), {"Apple"});
}

TEST_CASE("picture: the colours and the orientation are those that Pillow reads") {
  const fs::path corpus = fs::path(GOLDEN_DIR) / "../fuzz/corpus/picture";
  const SafeTensors expected = read_safetensors((fs::path(GOLDEN_DIR) / "pictures.safetensors").string());
  CHECK(expected.tensors.size() == 24);
  for (const auto& [name, tensor] : expected.tensors) {
    CAPTURE(name);
    const size_t space = name.find(' ');
    const std::string file_name = name.substr(0, space);
    std::vector<uint8_t> file = read_file((corpus / file_name).string());
    if (name.starts_with("exif.jpg ")) {
      const std::string_view tag("\1\x12\0\3\0\0\0\1\0", 9);
      file[text_of(file).find(tag) + 9] = uint8_t(name.back() - '0');
    }
    const Decoding decoding{space == name.npos ? Orientation::ignore : Orientation::apply, 0};
    const auto [shape, turned] = picture_format(text_of(file), name, decoding);
    REQUIRE(std::vector<int64_t>{shape.h, shape.w, shape.c} == tensor.shape);
    Bytes pixels(size_t(shape.count()));
    decode_picture(text_of(file), name, shape, pixels.data(), decoding);
    CHECK(turned == (name.starts_with("exif.jpg ") ? name.back() - '0' : name.starts_with("exif") ? 6 : 1));
    const auto check = [&, &expected_pixels = tensor.bytes](const uint8_t* decoded, int tolerance) {
      int most = 0;
      double sum = 0;
      for (size_t i = 0; i < expected_pixels.size(); ++i) {
        const int difference = std::abs(int(decoded[i]) - int(expected_pixels[i]));
        most = std::max(most, difference), sum += difference;
      }
      CHECK(most <= tolerance);
      CHECK(sum / double(expected_pixels.size()) < 1);
    };
    // stb_image rounds its cosine transform and smooths colours in its own way.
    const int of_stb = file_name == "edge_422.jpg" ? 3 : 8;
    check(pixels.data(), !is_jpeg(text_of(file)) ? 0 : have_libjpeg ? 1 : of_stb);
    if (!is_jpeg(text_of(file)) || space != name.npos) continue;
    most_allocated = 1 << 20;
    const DecodedPicture by_stb = decode_jpeg(text_of(file));  // whatever the build uses
    REQUIRE((by_stb.height == shape.h && by_stb.width == shape.w));
    check(by_stb.pixels.get(), of_stb);
  }
}

TEST_CASE("picture: kinds of JPEG that cannot be read are named") {
  const auto refusal = [](char marker, char bits) {
    std::vector<uint8_t> file = read_file((fs::path(GOLDEN_DIR) / "../fuzz/corpus/picture/baseline.jpg").string());
    const size_t frame = text_of(file).find("\xff\xc0");
    file[frame + 1] = uint8_t(marker), file[frame + 4] = uint8_t(bits);
    return usage_error([&] { picture_format(text_of(file), "p.jpg"); });
  };
  check_has(refusal('\xc1', 12), {"'p.jpg' is a JPEG with 12 bits a sample, a kind that pipecast does not read"});
  check_has(refusal('\xc3', 8), {"lossless coding"});
  check_has(refusal('\xc5', 8), {"hierarchical coding"});
  check_has(refusal('\xc9', 8), {"arithmetic coding"});
  check_has(refusal('\xca', 12), {"arithmetic coding"});
  check_has(refusal('\xc0', 9), {"is neither a whole PNG nor a whole JPEG"});
}

TEST_CASE("picture: sizes are checked before anything is decoded") {
  const std::string file = encoded_png(Bytes(2 * 2 * 3), 2, 2, 3);
  Bytes pixels(12);
  check_has(usage_error([&] { decode_picture(file, "p.png", {1, 2, 3, 3}, pixels.data()); }), {"'p.png' is 2 x 2 where 3 x 2 is expected"});
  std::string header = file.substr(16, 13);
  header[2] = '\x10', header[3] = '\x01';  // the width: 4097
  const std::string wide = file.substr(0, 8) + chunk("IHDR", header) + file.substr(33);
  check_has(usage_error([&] { picture_format(wide, "p.png"); }), {"4097 x 2", "1 to 4096"});
  // A 1 x 1 picture whose data unfold to more than it may take: matches of 258 zeros, 13 bits each, in a block of fixed Huffman codes.
  std::string bits = "110";  // the last block, of fixed codes, lowest bit first
  bits += "00110000";        // one zero
  for (int i = 0; i < 20000; ++i) bits += "1100010100000";
  bits += "0000000";
  std::string data = "\x78\x01";
  for (size_t i = 0; i < bits.size(); i += 8) {
    char byte = 0;
    for (size_t b = 0; b < 8 && i + b < bits.size(); ++b) byte |= char((bits[i + b] - '0') << b);
    data += byte;
  }
  std::string bomb = encoded_png(Bytes(3), 1, 1, 3);
  bomb.resize(33);  // the signature and IHDR
  bomb += chunk("IDAT", data) + chunk("IEND", "");
  CHECK(picture_format(bomb, "p.png").shape == Shape{1, 1, 1, 3});
  check_has(usage_error([&] { decode_picture(bomb, "p.png", {1, 1, 1, 3}, pixels.data()); }), {"'p.png' is damaged or needs more memory"});
}

TEST_CASE("dataset: every pixel and every label is in the digest") {
  PictureSet small = load_pictures("generated:40");
  small.train.pixels.resize(20 * 3072), small.train.labels.resize(20);
  const auto digest_of = [](const PictureSet& set) { return digest(dataset_of(set)); };
  std::set<std::string> digests{digest_of(small)};
  for (Pictures* pictures : {&small.train, &small.test})
    for (size_t picture = 0; picture < size_t(pictures->size()); ++picture) {
      uint8_t& pixel = pictures->pixels[picture * 3072 + 17 * picture];
      pixel ^= 1;
      CHECK(digests.insert(digest_of(small)).second);
      pixel ^= 1;
      pictures->labels[picture] ^= 1;
      CHECK(digests.insert(digest_of(small)).second);
      pictures->labels[picture] ^= 1;
    }
  std::swap_ranges(small.train.pixels.begin(), small.train.pixels.begin() + 3072, small.train.pixels.begin() + 5 * 3072);
  CHECK(digests.insert(digest_of(small)).second);
}

TEST_CASE("dataset: unknown formats and the table") {
  check_has(usage_error([] { load_dataset("cifar1:somewhere"); }), {"cifar1", "cifar10", "generated"});
  check_has(usage_error([] { load_dataset(""); }), {"cifar10", "generated"});
  CHECK(dataset_formats().size() == 15);
  CHECK(load_dataset("generated:40").name == "generated");
}

TEST_CASE("generated: sizes, balance, the same pictures every time") {
  CHECK(load_pictures("generated").train.size() == 2000);
  CHECK(load_pictures("generated:").test.size() == 500);
  for (const char* wrong : {"9", "1000001", "-20", "20x", "x", " 20", "2e3", "99999999999999999999", "20:30"})
    check_has(usage_error([&] { load_dataset(std::string("generated:") + wrong); }), {in_quotes(wrong), "from 10 to 1000000"});
  const PictureSet small = load_pictures("generated:100"), again = load_pictures("generated:100"), large = load_pictures("generated:1003");
  CHECK(small.classes == 10);
  CHECK(small.test.size() == 25);
  CHECK(small.train.pixels == again.train.pixels);
  CHECK(small.test.pixels == again.test.pixels);
  CHECK(std::equal(small.train.pixels.begin(), small.train.pixels.end(), large.train.pixels.begin()));
  CHECK(!std::equal(small.test.pixels.begin(), small.test.pixels.end(), small.train.pixels.begin()));
  REQUIRE(large.train.pixels.size() == 1003 * 3072);
  std::vector<int> counts(10);
  for (int32_t label : large.train.labels) ++counts.at(size_t(label));
  CHECK(*std::min_element(counts.begin(), counts.end()) == 100);
  CHECK(*std::max_element(counts.begin(), counts.end()) == 101);
  std::set<Bytes> different;
  for (size_t i = 0; i < 1003; ++i)
    different.insert(Bytes(large.train.pixels.begin() + int64_t(i) * 3072, large.train.pixels.begin() + int64_t(i + 1) * 3072));
  CHECK(different.size() == 1003);
}

TEST_CASE("generated: the same bytes on every machine") {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (uint8_t byte : load_pictures("generated:100").train.pixels) hash = (hash ^ byte) * 16777619u;
  CHECK(hash == 1417470778u);
}

TEST_CASE("generated-masks: the shapes of generated, at any size, with a label for every pixel") {
  const PictureSet pictures = load_pictures("generated:20");
  const Dataset small = load_dataset("generated-masks:20", {.image_size = 32}), large = load_dataset("generated-masks:20");
  CHECK(small.classes == 11);
  CHECK(small.class_names.size() == 11);
  CHECK(small.test->size() == 5);
  CHECK(large.image == Shape{1, 64, 64, 3});
  CHECK(digest(small) != digest(large));
  const Batches at_32(small.train, {.batch = 20}), at_64(large.train, {.batch = 20});
  std::vector<float> image(20 * 3072);
  std::vector<int32_t> labels(20 * 1024), fine(20 * 4096);
  at_32.read(0, at_32.column({"image", small.image}), image.data());
  at_32.read(0, at_32.column({"label", {{1, 32, 32, 1}, Storage::int32}}), labels.data());
  at_64.read(0, at_64.column({"label", {{1, 64, 64, 1}, Storage::int32}}), fine.data());
  for (size_t i = 0; i < image.size(); ++i) CHECK(image[i] == doctest::Approx((float(pictures.train.pixels[i]) / 255 - .5f) / .31f));
  for (size_t i = 0; i < 20; ++i) {
    int64_t of_shape = 0, of_fine = 0;
    for (size_t k = 0; k < 1024; ++k) {
      const int32_t label = labels[i * 1024 + k];
      CHECK((label == 0 || label == 1 + int32_t(i % 10)));
      of_shape += label > 0;
    }
    for (size_t k = 0; k < 4096; ++k) of_fine += fine[i * 4096 + k] > 0;
    CHECK(of_shape > 20);
    if (i % 10 == 0 || i % 10 == 2)
      CHECK(double(of_fine) == doctest::Approx(4. * double(of_shape)).epsilon(.05));  // a disc, a square: the same
  }
  check_has(usage_error([&] { Batches(small.train, {.shuffle = true, .augmentation = {.flip = true}}); }), {"--augment", "leave it out"});
  check_has(usage_error([] { load_dataset("generated-masks", {.image_size = 64, .resize = 80}); }), {"leave --resize out"});
}

TEST_CASE("generated: mean and deviation describe the pictures") {
  const PictureSet dataset = load_pictures("generated");
  for (size_t c = 0; c < 3; ++c) {
    double sum = 0, squares = 0;
    const double n = double(dataset.train.pixels.size() / 3);
    for (size_t i = c; i < dataset.train.pixels.size(); i += 3) {
      const double v = dataset.train.pixels[i] / 255.0;
      sum += v, squares += v * v;
    }
    CHECK(sum / n == doctest::Approx(dataset.mean[c]).epsilon(.01));
    CHECK(std::sqrt(squares / n - sum / n * sum / n) == doctest::Approx(dataset.deviation[c]).epsilon(.01));
  }
}

TEST_CASE("generated: a linear model learns the training pictures by heart and next to nothing else") {
  const PictureSet dataset = load_pictures("generated:1000");
  constexpr int64_t classes = 10, features = 3072, batch = 20;
  std::vector<float> w(size_t(classes * features), 0), images(size_t(batch * features));
  std::vector<int32_t> labels(static_cast<size_t>(batch));
  PictureBatches train(dataset, dataset.train, batch, true, {}, 1), test(dataset, dataset.test, batch, false, {}, 1);
  // One pass of softmax regression: the share of right answers, and a step of size `rate` per mini-batch.
  const auto pass = [&](PictureBatches& batches, int64_t epoch, float rate) {
    int64_t right = 0, count = 0;
    for (int64_t b = 0; b < batches.per_epoch(); ++b) {
      const int64_t index = epoch * batches.per_epoch() + b, n = batches.size(index);
      batches.images(index, images.data());
      batches.labels(index, labels.data());
      std::vector<float> delta(size_t(n * classes));
      for (int64_t i = 0; i < n; ++i) {
        float* p = delta.data() + i * classes;
        for (int64_t k = 0; k < classes; ++k)
          p[k] = std::inner_product(&w[size_t(k * features)], &w[size_t(k * features)] + features, &images[size_t(i * features)], 0.f);
        const float* best = std::max_element(p, p + classes);
        right += best - p == labels[size_t(i)], ++count;
        const float largest = *best;
        float sum = 0;
        for (int64_t k = 0; k < classes; ++k) sum += p[k] = std::exp(p[k] - largest);
        for (int64_t k = 0; k < classes; ++k) p[k] = p[k] / sum - float(k == labels[size_t(i)]);
      }
      if (rate == 0) continue;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < classes; ++k)
          for (int64_t j = 0; j < features; ++j)
            w[size_t(k * features + j)] -= rate / float(n) * delta[size_t(i * classes + k)] * images[size_t(i * features + j)];
    }
    return double(right) / double(count);
  };
  double train_accuracy = 0;
  for (int64_t epoch = 0; epoch < 15; ++epoch) train_accuracy = pass(train, epoch, .01f);
  const double test_accuracy = pass(test, 0, 0);
  MESSAGE("softmax regression: train " << train_accuracy << ", test " << test_accuracy);
  CHECK(train_accuracy > .6);  // it does learn
  CHECK(test_accuracy < .3);
}

TEST_CASE("augmentation: names") {
  CHECK(!parse_augmentation("").crop);
  CHECK(!parse_augmentation("none").flip);
  const Augmentation both = parse_augmentation("crop,flip"), turned = parse_augmentation("flip,crop"), one = parse_augmentation("flip");
  CHECK((both.crop && both.flip && turned.crop && turned.flip && one.flip && !one.crop));
  CHECK((parse_augmentation("crop").crop && !parse_augmentation("crop").flip));
  check_has(usage_error([] { parse_augmentation("crop,flp"); }), {"flp", "flip"});
  check_has(usage_error([] { parse_augmentation("none,crop"); }), {"none"});
  for (const char* wrong : {",", "crop,", ",crop", "crop flip", "Crop"})
    CHECK(usage_error([&] { parse_augmentation(wrong); }) != "no UsageError");
}

TEST_CASE("batches: counts, also when the last is short") {
  const PictureSet dataset = numbered(23);
  const PictureBatches five(dataset, dataset.train, 5, true, {}, 1), all(dataset, dataset.train, 100, true, {}, 1),
      exact(dataset, dataset.train, 23, true, {}, 1), one(dataset, dataset.train, 1, true, {}, 1);
  CHECK(five.per_epoch() == 5);
  CHECK((five.size(0) == 5 && five.size(4) == 3 && five.size(5) == 5 && five.size(9) == 3));
  CHECK((all.per_epoch() == 1 && all.size(0) == 23 && all.size(7) == 23));
  CHECK((exact.per_epoch() == 1 && exact.size(1) == 23));
  CHECK((one.per_epoch() == 23 && one.size(22) == 1 && one.size(23) == 1));
  const PictureBatches dropped(dataset, dataset.train, 5, true, {}, 1, true), only(dataset, dataset.train, 100, true, {}, 1, true);
  CHECK((dropped.per_epoch() == 4 && dropped.size(3) == 5 && dropped.size(4) == 5));
  CHECK((only.per_epoch() == 1 && only.size(1) == 23));
  check_has(usage_error([&] { PictureBatches(dataset, dataset.train, 0, true, {}, 1); }), {"batch size 0"});
  check_has(usage_error([&] { PictureBatches(dataset, dataset.test, 5, true, {}, 1); }), {"no samples"});
}

TEST_CASE("batches: an order is a permutation, another one in every epoch and for every seed, whatever the batch size") {
  const PictureSet dataset = numbered(200);
  const PictureBatches batches(dataset, dataset.train, 7, true, {}, 1);
  std::vector<int> identity(200);
  std::iota(identity.begin(), identity.end(), 0);
  std::set<std::vector<int>> orders{identity};
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    const std::vector<int> order = epoch_order(dataset, batches, epoch);
    CHECK(order == epoch_order(dataset, PictureBatches(dataset, dataset.train, 7, true, {}, 1), epoch));
    CHECK(order == epoch_order(dataset, PictureBatches(dataset, dataset.train, 64, true, {}, 1), epoch));
    CHECK(orders.insert(order).second);
    CHECK(orders.insert(epoch_order(dataset, PictureBatches(dataset, dataset.train, 7, true, {}, 2), epoch)).second);
    std::vector<int> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    CHECK(sorted == identity);
  }
  CHECK(epoch_order(dataset, PictureBatches(dataset, dataset.train, 7, false, {}, 1), 3) == identity);
}

TEST_CASE("batches: every picture comes first equally often") {
  const PictureSet dataset = numbered(5);
  PictureBatches batches(dataset, dataset.train, 1, true, {}, 3);
  std::vector<std::vector<int>> counts(5, std::vector<int>(5));
  std::vector<float> image(size_t(dataset.image.count()));
  for (int64_t index = 0; index < 5 * 2000; ++index) {
    batches.images(index, image.data());
    ++counts[size_t(index % 5)][size_t(number(dataset, image[0]))];
  }
  for (const auto& place : counts)
    for (int count : place) CHECK(std::abs(count - 400) < 90);  // five standard deviations
}

TEST_CASE("batches: labels belong to the images, in any order of asking") {
  const PictureSet dataset = numbered(53);
  PictureBatches batches(dataset, dataset.train, 8, true, {}, 5);
  PictureBatches others = batches;
  std::vector<float> images(size_t(8 * dataset.image.count()));
  for (int64_t index : {0, 6, 7, 3, 20, 20, 1, 13}) {
    std::vector<int32_t> labels(9, -1);
    others.labels(index, labels.data());
    batches.images(index, images.data());
    const int64_t n = batches.size(index);
    for (int64_t i = 0; i < n; ++i) CHECK(labels[size_t(i)] == number(dataset, images[size_t(i * dataset.image.count())]) % 10);
    for (int64_t i = n; i < 9; ++i) CHECK(labels[size_t(i)] == -1);
  }
  CHECK_THROWS_AS(batches.images(-1, images.data()), Error);
}

TEST_CASE("batches: crop and flip, pixel by pixel") {
  // Also pictures smaller than the padding and of other channel counts.
  for (Shape shape : {Shape{1, 32, 32, 3}, Shape{1, 6, 5, 3}, Shape{1, 3, 2, 1}, Shape{1, 9, 7, 4}})
    for (int mode = 0; mode < 4; ++mode) {
      const Augmentation augmentation{.crop = bool(mode & 1), .flip = bool(mode & 2)};
      INFO(to_string(shape), " mode ", mode);
      const PictureSet dataset = numbered(60, shape);
      const std::vector<float> plain = epoch_images(dataset, PictureBatches(dataset, dataset.train, 60, true, {}, 9), 2);
      const std::vector<float> images = epoch_images(dataset, PictureBatches(dataset, dataset.train, 13, true, augmentation, 9), 2);
      CHECK(std::memcmp(images.data(), epoch_images(dataset, PictureBatches(dataset, dataset.train, 60, true, augmentation, 9), 2).data(),
                        images.size() * sizeof(float)) == 0);
      const Random random{9, purpose("augment"), 2};
      int64_t wrong = 0;
      for (int64_t i = 0; i < 60; ++i) {
        const int64_t picture = number(dataset, plain[size_t(i * shape.count())]);
        const uint8_t* pixels = dataset.train.pixels.data() + picture * shape.count();
        // The picture in the middle of a larger black one, normalised as a whole; a window of it; mirrored.
        const int64_t top = augmentation.crop ? random.below(uint64_t(4 * i), 9) : 4;
        const int64_t left = augmentation.crop ? random.below(uint64_t(4 * i + 1), 9) : 4;
        const bool mirrored = augmentation.flip && random.below(uint64_t(4 * i + 2), 2) == 1;
        const int64_t w = shape.w + 8, h = shape.h + 8;
        std::vector<float> padded(size_t(h * w * shape.c));
        for (int64_t j = 0; j < h * w * shape.c; ++j) {
          const int64_t c = j % shape.c, x = j / shape.c % w - 4, y = j / shape.c / w - 4;
          const bool black = x < 0 || y < 0 || x >= shape.w || y >= shape.h;
          padded[size_t(j)] = normalised(dataset, black ? 0 : pixels[(y * shape.w + x) * shape.c + c], c);
        }
        for (int64_t y = 0; y < shape.h; ++y)
          for (int64_t x = 0; x < shape.w; ++x)
            for (int64_t c = 0; c < shape.c; ++c) {
              const int64_t from = left + (mirrored ? shape.w - 1 - x : x);
              wrong += images[size_t(i * shape.count() + (y * shape.w + x) * shape.c + c)] !=
                       padded[size_t(((top + y) * w + from) * shape.c + c)];
            }
      }
      CHECK(wrong == 0);
      if (mode == 0) CHECK(images == plain);
    }
}

TEST_CASE("batches: all offsets and both directions come, equally often; the order of the files is never augmented") {
  // A picture of one bright pixel in the middle shows where it went.
  PictureSet dataset{.name = "point", .image = {1, 9, 10, 1}, .classes = 1, .train = {}, .test = {}, .mean = {0}, .deviation = {1}, .skipped = 0};
  constexpr int64_t n = 16200;
  dataset.train.labels.assign(size_t(n), 0);
  dataset.train.pixels.assign(size_t(n * 90), 0);
  for (int64_t i = 0; i < n; ++i) dataset.train.pixels[size_t(i * 90 + 4 * 10 + 4)] = 255;  // row 4, column 4; mirrored: column 5
  std::vector<float> images(size_t(n * 90));
  PictureBatches(dataset, dataset.train, n, true, {true, true}, 4).images(0, images.data());
  std::vector<int> counts(90);
  for (size_t j = 0; j < images.size(); ++j) counts[j % 90] += images[j] == 1;
  CHECK(std::accumulate(counts.begin(), counts.end(), 0) == n);
  // Columns 1 to 8 are reached both ways, 0 and 9 one way.
  for (int j = 0; j < 90; ++j) CHECK(std::abs(counts[size_t(j)] - (j % 10 == 0 || j % 10 == 9 ? 100 : 200)) < 75);
  PictureBatches(dataset, dataset.train, n, false, {true, true}, 4).images(0, images.data());
  int64_t moved = 0;
  for (int64_t i = 0; i < n; ++i) moved += images[size_t(i * 90 + 44)] != 1;
  CHECK(moved == 0);
}

namespace {

// 23 sequences: sample i has i % 9 + 1 positions, each of which holds i + 1; what is padded is 0.
class Sequences : public Samples {
 public:
  int64_t size() const override { return 23; }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  std::vector<int64_t> lengths() const override { return {3, 6, 9}; }
  int64_t length(int64_t sample) const override { return sample % 9 + 1; }
  void read(size_t column, const int32_t* samples, int64_t count, const Reading& reading, void* to) const override {
    auto* values = static_cast<int32_t*>(to);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t here = length(samples[i]);
      if (column == 0) *values++ = int32_t(here);
      else
        for (int64_t t = 0; t < reading.length; ++t) *values++ = t < here ? samples[i] + 1 : 0;
    }
  }
  void add_to(Sha256&) const override {}

 private:
  std::vector<InputSpec> columns_ = {{"length", {{1, 1, 1, 1}, Storage::int32}}, {"tokens", {{1, 1, 1, 1}, Storage::int32}, true}};
};

}  // namespace

TEST_CASE("batches: samples of several lengths come in buckets, each once an epoch") {
  const Batches batches(std::make_shared<Sequences>(), {.batch = 4, .shuffle = true, .seed = 5});
  const size_t tokens = batches.column({"tokens", {{1, 1, 1, 1}, Storage::int32}, true});
  CHECK(batches.shapes() == std::vector<PassShape>{{4, 3}, {1, 3}, {4, 6}, {4, 9}, {2, 9}});  // of 9, 8 and 6 samples
  std::set<std::vector<int64_t>> orders;  // of the lengths of mini-batches
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<int32_t> seen;
    std::vector<int64_t> lengths;
    for (int64_t index = epoch * batches.per_epoch(); index < (epoch + 1) * batches.per_epoch(); ++index) {
      const PassShape shape = batches.shape(index);
      lengths.push_back(shape.length);
      std::vector<int32_t> read(size_t(shape.samples * shape.length), -1);
      batches.read(index, tokens, read.data());
      for (int64_t i = 0; i < shape.samples; ++i) {
        const int32_t* row = read.data() + i * shape.length;
        const int64_t length = (row[0] - 1) % 9 + 1;
        CHECK(seen.insert(row[0]).second);
        CHECK(length <= shape.length);
        CHECK(length > shape.length - 3);  // in the smallest bucket
        for (int64_t t = 0; t < shape.length; ++t) CHECK(row[t] == (t < length ? row[0] : 0));
      }
    }
    CHECK(seen.size() == 23);
    orders.insert(lengths);
  }
  CHECK(orders.size() > 1);
  check_has(usage_error([&] { batches.column({"image", {{1, 2, 2, 3}}}); }), {"'image'", "length, tokens"});
  check_has(usage_error([&] { batches.column({"length", {{1, 1, 1, 2}, Storage::int32}}); }), {"'length'", "1x1x1x2"});
  const Batches dropped(std::make_shared<Sequences>(), {.batch = 4, .drop_last = true});
  CHECK(dropped.shapes() == std::vector<PassShape>{{4, 3}, {4, 6}, {4, 9}});
}

TEST_CASE("loader: the columns of mini-batches, in turn, over epochs, for any number ahead") {
  const PictureSet dataset = numbered(23);
  const PictureBatches batches(dataset, dataset.train, 5, true, {true, true}, 6);
  for (int ahead : {1, 2, 3, 50}) {
    PictureBatches direct = batches;
    Loader loader(batches, testing::only_images(dataset), 3, 18, {}, ahead);
    std::vector<float> expected(size_t(5 * dataset.image.count()));
    for (int64_t index = 3; index < 18; ++index) {
      CHECK(loader.next() == direct.shape(index));
      const Tensor images = loader.column(0);
      if (index % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // time to overwrite what is being read
      direct.images(index, expected.data());
      REQUIRE(images.shape == dataset.image.batch(direct.size(index)));
      CHECK(std::equal(images.as<float>(), images.as<float>() + images.shape.count(), expected.begin()));
    }
    CHECK_THROWS_AS(loader.next(), Error);
  }
}

TEST_CASE("loader: ends at any time") {
  const PictureSet dataset = load_pictures("generated:200");
  const PictureBatches batches(dataset, dataset.train, 20, true, {true, true}, 6);
  const auto start = std::chrono::steady_clock::now();
  for (int taken = 0; taken < 20; ++taken) {
    Loader loader(batches, testing::only_images(dataset), 0, 1'000'000'000);
    for (int i = 0; i < taken; ++i) loader.next();
  }
  { Loader nothing(batches, testing::only_images(dataset), 7, 7); }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("loader: what the thread throws arrives") {
  const PictureSet dataset = numbered(23);
  Loader loader(PictureBatches(dataset, dataset.train, 5, true, {}, 6), testing::only_images(dataset), -1, 10);
  CHECK_THROWS_WITH_AS(loader.next(), doctest::Contains("mini-batch -1"), Error);
  CHECK_THROWS_AS(loader.next(), Error);  // again, not a wait without end
}

namespace {

const fs::path script = fs::path(GOLDEN_DIR) / ".." / ".." / "data" / "download_cifar10";

// Exit code of a shell command; its output goes to `output`.
int shell(const std::string& command, std::string& output) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  output.clear();
  char buffer[512];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.append(buffer, n);
  const int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
bool empty_or_absent(const fs::path& path) { return !fs::exists(path) || fs::is_empty(path); }

}  // namespace

TEST_CASE("download_cifar10: all or nothing") {
  std::string output;
  if (shell("command -v bash && command -v curl && command -v tar && command -v sha256sum", output) != 0) {
    MESSAGE("skipped: needs bash, curl, tar and sha256sum");
    return;
  }
  TemporaryFolder folder;
  const std::string run = "bash " + in_quotes(script) + " ";
  CHECK(shell(run + "--help", output) == 0);
  check_has(output, {"Usage", "Example"});
  CHECK(shell(run, output) == 2);
  CHECK(shell(run + "--nonsense", output) == 2);
  CHECK(shell(run + "a b c", output) == 2);

  // An archive of the right form and wrong contents.
  const fs::path source = folder.path / "source", inner = source / "cifar-10-batches-bin", archive = folder.path / "tampered.tar.gz";
  fs::create_directories(inner);
  write_cifar10(inner);
  REQUIRE(shell("tar -czf " + in_quotes(archive) + " -C " + in_quotes(source) + " cifar-10-batches-bin", output) == 0);
  const std::string url = std::string(" ").append(in_quotes("file://" + archive.string()));

  const fs::path dest = folder.path / "a new folder";
  CHECK(shell(run + in_quotes(dest) + url, output) == 1);
  check_has(output, {"damaged", "SHA-256"});
  CHECK(!fs::exists(dest));
  fs::create_directory(dest);
  CHECK(shell(run + in_quotes(dest) + url, output) == 1);
  CHECK(empty_or_absent(dest));
  CHECK(shell(run + in_quotes(dest) + " file://" + in_quotes(folder.path / "nothing"), output) == 1);
  check_has(output, {"could not be fetched", "network"});
  CHECK(empty_or_absent(dest));

  // The same with a checksum program that likes it: the rest of the way.
  const fs::path bin = folder.path / "bin";
  fs::create_directory(bin);
  std::ofstream(bin / "sha256sum") << "#!/bin/sh\nexit 0\n";
  fs::permissions(bin / "sha256sum", fs::perms::owner_all);
  const std::string lenient = "PATH=" + in_quotes(bin) + ":\"$PATH\" " + run;
  CHECK(shell(lenient + in_quotes(dest) + url, output) == 0);
  CHECK(std::distance(fs::directory_iterator(dest), fs::directory_iterator()) == 1);
  CHECK(load_pictures("cifar10:" + dest.string()).train.size() == 15);
  CHECK(shell(run + in_quotes(dest) + url, output) == 0);
  check_has(output, {"already there"});

  // An archive that holds something else.
  REQUIRE(shell("tar -czf " + in_quotes(archive) + " -C " + in_quotes(inner) + " test_batch.bin", output) == 0);
  const fs::path other = folder.path / "other";
  CHECK(shell(lenient + in_quotes(other) + url, output) != 0);
  CHECK(!fs::exists(other));
}

TEST_CASE("download: several files, each checked and unpacked, and names") {
  std::string output;
  if (shell("command -v bash && command -v curl && command -v gzip && command -v sha256sum", output) != 0) {
    MESSAGE("skipped: needs bash, curl, gzip and sha256sum");
    return;
  }
  TemporaryFolder folder;
  const std::string run = "bash " + in_quotes(script.parent_path() / "download") + " ";
  CHECK(shell(run + "--help", output) == 0);
  check_has(output, {"cifar10", "cifar100", "mnist", "fashion-mnist", "tiny-imagenet"});
  CHECK(shell(run + "mnist", output) == 2);
  CHECK(shell(run + "minst " + in_quotes(folder.path), output) == 1);
  check_has(output, {"no data set 'minst'"});
  const fs::path source = folder.path / "source", dest = folder.path / "dest", bin = folder.path / "bin";
  fs::create_directory(source), fs::create_directory(bin);
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"})
    write(source / name, {1, 2, 3});
  REQUIRE(shell("gzip " + in_quotes(source) + "/t*", output) == 0);
  const std::string arguments = " " + in_quotes(dest) + " file://" + in_quotes(source);
  for (const char* name : {"mnist", "fashion-mnist"}) {
    CHECK(shell(run + name + arguments, output) == 1);
    check_has(output, {"train-images-idx3-ubyte.gz is damaged"});
    CHECK(!fs::exists(dest));
  }
  std::ofstream(bin / "sha256sum") << "#!/bin/sh\nexit 0\n";
  fs::permissions(bin / "sha256sum", fs::perms::owner_all);
  CHECK(shell("PATH=" + in_quotes(bin) + ":\"$PATH\" " + run + "mnist" + arguments, output) == 0);
  CHECK(std::distance(fs::directory_iterator(dest), fs::directory_iterator()) == 4);
  CHECK(read_file((dest / "t10k-labels-idx1-ubyte").string()) == Bytes{1, 2, 3});
  CHECK(shell(run + "mnist" + arguments, output) == 0);
  check_has(output, {"already there"});
}
