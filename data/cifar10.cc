// CIFAR-10, binary version: files of records of one label byte, then 32 x 32 red, green and blue bytes, plane after plane.
// The official files hold 10,000 records each; any whole number is accepted, so that a subset is a data set too.
#include <filesystem>

#include "data/pictures.h"
#include "engine/files/durable_file.h"
#include "engine/error.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

constexpr int64_t classes = 10, channels = 3, plane = 32 * 32, record = 1 + channels * plane;

fs::path find_folder(const std::string& directory) {
  if (directory.empty())
    throw UsageError(
        "data set cifar10 needs a folder: cifar10:DIR, where DIR holds data_batch_1.bin to data_batch_5.bin and test_batch.bin");
  const fs::path inner = fs::path(directory) / "cifar-10-batches-bin";
  std::error_code ignored;  // what cannot be looked at is not there
  if (!fs::is_directory(directory, ignored))
    throw UsageError("CIFAR-10 folder '" + directory + "' is not there; 'data/download_cifar10 " + directory + "' fetches the data");
  return !fs::exists(fs::path(directory) / "data_batch_1.bin", ignored) && fs::is_directory(inner, ignored) ? inner : fs::path(directory);
}

void append_file(const fs::path& path, BadSamples bad_samples, PictureSet& dataset, Pictures& pictures) {
  const std::string file = "CIFAR-10 file '" + path.string() + "'";
  std::error_code failure;
  if (!fs::exists(path, failure))
    throw UsageError(file + " is missing; the folder needs data_batch_1.bin to data_batch_5.bin and test_batch.bin");
  if (!fs::is_regular_file(path, failure)) throw UsageError(file + " is not a regular file");
  dataset.skipped += append_cifar10(text_of(read_file(path.string())), path.string(), bad_samples, pictures);
}

}  // namespace

int64_t append_cifar10(std::string_view bytes, const std::string& path, BadSamples bad_samples, Pictures& pictures) {
  const std::string file = "CIFAR-10 file '" + path + "'";
  if (bytes.empty() || bytes.size() % record != 0)
    throw UsageError(file + " is truncated or damaged: " + std::to_string(bytes.size()) + " bytes are not a whole number of records of " +
                     std::to_string(record) + " bytes; fetch it again");
  const int64_t count = int64_t(bytes.size()) / record;
  int64_t skipped = 0;
  pictures.labels.reserve(size_t(pictures.size() + count));
  pictures.pixels.reserve(size_t((pictures.size() + count) * plane * channels));
  for (int64_t i = 0; i < count; ++i) {
    const auto* from = reinterpret_cast<const uint8_t*>(bytes.data()) + i * record;
    if (*from >= classes && bad_samples == BadSamples::skip) {
      ++skipped;
      continue;
    }
    if (*from >= classes)
      throw UsageError(file + " is damaged or of another format: record " + std::to_string(i) + " (counted from 0) has label " +
                       std::to_string(*from) + ", but labels are 0 to 9; fetch it again, or leave "
                       "such records out with --bad-samples skip");
    pictures.labels.push_back(*from++);
    for (int64_t p = 0; p < plane; ++p)
      for (int64_t c = 0; c < channels; ++c) pictures.pixels.push_back(from[c * plane + p]);
  }
  return skipped;
}

PictureSet load_cifar10(const std::string& directory, BadSamples bad_samples) {
  const fs::path folder = find_folder(directory);
  PictureSet dataset{.name = "cifar10",
                  .image = {1, 32, 32, channels},
                  .classes = classes,
                  .train = {},
                  .test = {},
                  .mean = {.4914f, .4822f, .4465f},
                  .deviation = {.2023f, .1994f, .2010f},
                  .skipped = 0};
  for (char number = '1'; number <= '5'; ++number)
    append_file(folder / (std::string("data_batch_") + number + ".bin"), bad_samples, dataset, dataset.train);
  append_file(folder / "test_batch.bin", bad_samples, dataset, dataset.test);
  return dataset;
}

}  // namespace pipecast
