// MNIST and Fashion-MNIST: idx files, unpacked. An idx file has two zero bytes, the type of its elements (8: bytes), the number of its
// dimensions, each dimension in four bytes, the highest first, then the elements, the last dimension fastest.
#include <filesystem>
#include <vector>

#include "data/decoders.h"
#include "data/pictures.h"
#include "engine/error.h"
#include "engine/files/durable_file.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

constexpr int64_t classes = 10;
constexpr size_t most_side = 4096;  // pixels

std::vector<uint8_t> bytes_of(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is not there
  if (fs::exists(path, ignored)) return read_file(path.string());
  const fs::path packed = path.string() + ".gz";
  if (fs::exists(packed, ignored))
    throw UsageError("'" + path.string() + "' is missing and '" + packed.string() + "' is packed; unpack it with 'gunzip " +
                     packed.string() + "'");
  throw UsageError("'" + path.string() + "' is missing; the folder needs train-images-idx3-ubyte, train-labels-idx1-ubyte, " +
                   "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, unpacked");
}

// The elements. sizes: the dimensions, whose number is known.
std::string_view elements(std::string_view file, const std::string& name, std::vector<size_t>& sizes) {
  const size_t header = 4 + 4 * sizes.size();
  if (file.starts_with("\x1f\x8b")) throw UsageError("'" + name + "' is packed; rename it to '" + name + ".gz' and unpack it with gunzip");
  if (file.size() < header || number_of(file, 0, 4) != (8 << 8 | sizes.size()))
    throw UsageError("'" + name + "' is no idx file of bytes with " + std::to_string(sizes.size()) + " dimensions; fetch it again");
  size_t count = 1;
  for (size_t k = 0; k < sizes.size(); ++k) {
    sizes[k] = number_of(file, 4 + 4 * k, 4);
    if (k > 0 && (sizes[k] < 1 || sizes[k] > most_side))
      throw UsageError("'" + name + "' says that a side has " + std::to_string(sizes[k]) + " pixels, and it has 1 to " +
                       std::to_string(most_side) + "; fetch it again");
    count *= sizes[k];  // below 2^32 * 2^12 * 2^12
  }
  if (count == 0 || file.size() - header != count)
    throw UsageError("'" + name + "' is truncated or damaged: it has " + std::to_string(file.size() - header) + " bytes where " +
                     std::to_string(count) + " and at least one are expected; fetch it again");
  return file.substr(header);
}

Shape read_part(const fs::path& folder, const std::string& prefix, BadSamples bad_samples, int64_t& skipped, Pictures& pictures) {
  const fs::path images = folder / (prefix + "-images-idx3-ubyte"), labels = folder / (prefix + "-labels-idx1-ubyte");
  const std::vector<uint8_t> image_bytes = bytes_of(images), label_bytes = bytes_of(labels);
  return append_idx(text_of(image_bytes), images.string(), text_of(label_bytes), labels.string(), bad_samples, skipped, pictures);
}

PictureSet load(const std::string& name, const std::string& directory, BadSamples bad_samples, float mean, float deviation) {
  std::error_code ignored;
  if (directory.empty())
    throw UsageError("data set " + name + " needs a folder: " + name + ":DIR, where DIR holds its four idx files, unpacked");
  if (!fs::is_directory(directory, ignored))
    throw UsageError("folder '" + directory + "' is not there; 'data/download " + name + " " + directory + "' fetches the data");
  PictureSet dataset{.name = name, .image = {}, .classes = classes, .train = {}, .test = {}, .mean = {mean}, .deviation = {deviation}};
  dataset.image = read_part(directory, "train", bad_samples, dataset.skipped, dataset.train);
  const Shape test = read_part(directory, "t10k", bad_samples, dataset.skipped, dataset.test);
  if (test != dataset.image)
    throw UsageError("the pictures for testing in '" + directory + "' are " + std::to_string(test.w) + " x " + std::to_string(test.h) +
                     " and those for training " + std::to_string(dataset.image.w) + " x " + std::to_string(dataset.image.h) +
                     "; fetch the files again");
  return dataset;
}

}  // namespace

Shape append_idx(std::string_view images, const std::string& images_name, std::string_view labels, const std::string& labels_name,
                 BadSamples bad_samples, int64_t& skipped, Pictures& pictures) {
  std::vector<size_t> sizes(3), count(1);
  const std::string_view pixels = elements(images, images_name, sizes), numbers = elements(labels, labels_name, count);
  if (sizes[0] != count[0])
    throw UsageError("'" + images_name + "' has " + std::to_string(sizes[0]) + " pictures and '" + labels_name + "' " +
                     std::to_string(count[0]) + " labels; fetch both again");
  const size_t bytes = sizes[1] * sizes[2];
  int64_t kept = 0;
  for (size_t i = 0; i < count[0]; ++i) {
    const int64_t label = int64_t(byte_of(numbers, i));
    if (label >= classes && bad_samples == BadSamples::fail)
      throw UsageError("'" + labels_name + "' is damaged or of another data set: label " + std::to_string(label) + " of picture " +
                       std::to_string(i) +
                       " (counted from 0), and labels are 0 to 9; fetch it again, or leave such pictures out with "
                       "--bad-samples skip");
    if (label >= classes) continue;
    pictures.labels.push_back(int32_t(label));
    const auto* from = reinterpret_cast<const uint8_t*>(pixels.data()) + i * bytes;
    pictures.pixels.insert(pictures.pixels.end(), from, from + bytes);
    ++kept;
  }
  if (kept == 0) throw UsageError("'" + labels_name + "' has no label from 0 to 9; fetch it again");
  skipped += int64_t(count[0]) - kept;
  return {1, int64_t(sizes[1]), int64_t(sizes[2]), 1};
}

PictureSet load_mnist(const std::string& directory, BadSamples bad_samples) {
  return load("mnist", directory, bad_samples, .1307f, .3081f);
}
PictureSet load_fashion_mnist(const std::string& directory, BadSamples bad_samples) {
  PictureSet dataset = load("fashion-mnist", directory, bad_samples, .2860f, .3530f);
  dataset.class_names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"};
  return dataset;
}

}  // namespace pipecast
