// CIFAR-10, binary version: files of records of one label byte, then 32 x 32 red, green and blue bytes, plane after plane.
// The official files hold 10,000 records each; any whole number is accepted, so that a subset is a data set too.
#include <filesystem>
#include <fstream>

#include "data/dataset.h"
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

std::vector<uint8_t> read_records(const fs::path& path) {
  const std::string file = "CIFAR-10 file '" + path.string() + "'";
  std::error_code failure;
  if (!fs::exists(path, failure))
    throw UsageError(file + " is missing; the folder needs data_batch_1.bin to data_batch_5.bin and test_batch.bin");
  if (!fs::is_regular_file(path, failure)) throw UsageError(file + " is not a regular file");
  const uint64_t size = fs::file_size(path, failure);
  std::ifstream stream(path, std::ios::binary);
  if (failure || !stream) throw UsageError(file + " cannot be read; check its permissions");
  if (size == 0 || size % record != 0)
    throw UsageError(file + " is truncated or damaged: " + std::to_string(size) + " bytes are not a whole number of records of " +
                     std::to_string(record) + " bytes; fetch it again");
  std::vector<uint8_t> bytes(size);
  if (!stream.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(size)))
    throw UsageError(file + " cannot be read: it ended or failed after " + std::to_string(stream.gcount()) + " of " + std::to_string(size) +
                     " bytes");
  return bytes;
}

void append_file(const fs::path& path, Pictures& pictures) {
  const std::vector<uint8_t> bytes = read_records(path);
  const int64_t count = int64_t(bytes.size()) / record, before = pictures.size();
  pictures.labels.reserve(size_t(before + count));
  pictures.pixels.resize(size_t((before + count) * plane * channels));
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* from = bytes.data() + i * record;
    if (*from >= classes)
      throw UsageError("CIFAR-10 file '" + path.string() + "' is damaged or of another format: record " + std::to_string(i) +
                       " (counted from 0) has label " + std::to_string(*from) + ", but labels are 0 to 9; fetch it again");
    pictures.labels.push_back(*from++);
    uint8_t* to = pictures.pixels.data() + (before + i) * plane * channels;
    for (int64_t p = 0; p < plane; ++p)
      for (int64_t c = 0; c < channels; ++c) to[p * channels + c] = from[c * plane + p];
  }
}

}  // namespace

Dataset load_cifar10(const std::string& directory) {
  const fs::path folder = find_folder(directory);
  Dataset dataset{.name = "cifar10",
                  .image = {1, 32, 32, channels},
                  .classes = classes,
                  .train = {},
                  .test = {},
                  .mean = {.4914f, .4822f, .4465f},
                  .deviation = {.2023f, .1994f, .2010f}};
  for (char number = '1'; number <= '5'; ++number) append_file(folder / (std::string("data_batch_") + number + ".bin"), dataset.train);
  append_file(folder / "test_batch.bin", dataset.test);
  return dataset;
}

}  // namespace pipecast
