// CIFAR-10 and CIFAR-100, binary version: files of records of label bytes, then 32 x 32 red, green and blue bytes, plane after plane.
// The official files hold 10,000 records each, or CIFAR-100's 50,000 and 10,000; any whole number is accepted, so that a subset is a data
// set too.
#include <filesystem>
#include <string>
#include <vector>

#include "data/class_folders.h"
#include "data/pictures.h"
#include "engine/error.h"
#include "engine/files/durable_file.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

constexpr int64_t channels = 3, plane = 32 * 32;

struct Layout {
  std::string name, title, folder, script;
  std::vector<std::string> train, test;  // files
  std::vector<int> classes;              // per label byte
  std::string names;                     // the file with the classes' names
  size_t label;                          // which of those the model learns
  std::vector<float> mean, deviation;
};

const Layout& layout_of(Cifar kind) {
  static const std::vector<float> mean = {.5071f, .4865f, .4409f}, deviation = {.2673f, .2564f, .2762f};
  static const Layout ten{.name = "cifar10",
                          .title = "CIFAR-10",
                          .folder = "cifar-10-batches-bin",
                          .script = "data/download_cifar10",
                          .train = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
                          .test = {"test_batch.bin"},
                          .classes = {10},
                          .names = "batches.meta.txt",
                          .label = 0,
                          .mean = {.4914f, .4822f, .4465f},
                          .deviation = {.2023f, .1994f, .2010f}};
  static const Layout hundred{.name = "cifar100",
                              .title = "CIFAR-100",
                              .folder = "cifar-100-binary",
                              .script = "data/download cifar100",
                              .train = {"train.bin"},
                              .test = {"test.bin"},
                              .classes = {20, 100},
                              .names = "fine_label_names.txt",
                              .label = 1,
                              .mean = mean,
                              .deviation = deviation};
  static const Layout coarse = [] {
    Layout layout = hundred;
    layout.name = "cifar100-coarse", layout.label = 0, layout.names = "coarse_label_names.txt";
    return layout;
  }();
  return kind == Cifar::ten ? ten : kind == Cifar::hundred ? hundred : coarse;
}

std::string needed_files(const Layout& layout) {
  return layout.train.front() + (layout.train.size() > 1 ? " to " + layout.train.back() : "") + " and " + layout.test.front();
}

fs::path find_folder(const Layout& layout, const std::string& directory) {
  if (directory.empty())
    throw UsageError("data set " + layout.name + " needs a folder: " + layout.name + ":DIR, where DIR holds " + needed_files(layout));
  const fs::path inner = fs::path(directory) / layout.folder;
  std::error_code ignored;  // what cannot be looked at is not there
  if (!fs::is_directory(directory, ignored))
    throw UsageError(layout.title + " folder '" + directory + "' is not there; '" + layout.script + " " + directory + "' fetches the data");
  return !fs::exists(fs::path(directory) / layout.train.front(), ignored) && fs::is_directory(inner, ignored) ? inner : fs::path(directory);
}

void append_file(const fs::path& path, Cifar kind, BadSamples bad_samples, PictureSet& dataset, Pictures& pictures) {
  const Layout& layout = layout_of(kind);
  const std::string file = layout.title + " file '" + path.string() + "'";
  std::error_code failure;
  if (!fs::exists(path, failure)) throw UsageError(file + " is missing; the folder needs " + needed_files(layout));
  if (!fs::is_regular_file(path, failure)) throw UsageError(file + " is not a regular file");
  dataset.skipped += append_cifar(text_of(read_file(path.string())), path.string(), kind, bad_samples, pictures);
}

}  // namespace

int64_t append_cifar(std::string_view bytes, const std::string& path, Cifar kind, BadSamples bad_samples, Pictures& pictures) {
  const Layout& layout = layout_of(kind);
  const std::string file = layout.title + " file '" + path + "'";
  const int64_t labels = int64_t(layout.classes.size()), record = labels + channels * plane;
  if (bytes.empty() || int64_t(bytes.size()) % record != 0)
    throw UsageError(file + " is truncated or damaged: " + std::to_string(bytes.size()) + " bytes are not a whole number of records of " +
                     std::to_string(record) + " bytes; fetch it again");
  const int64_t count = int64_t(bytes.size()) / record;
  int64_t skipped = 0;
  pictures.labels.reserve(size_t(pictures.size() + count));
  pictures.pixels.reserve(size_t((pictures.size() + count) * plane * channels));
  for (int64_t i = 0; i < count; ++i) {
    const auto* from = reinterpret_cast<const uint8_t*>(bytes.data()) + i * record;
    int64_t wrong = 0;  // the first label that is
    while (wrong < labels && from[wrong] < layout.classes[size_t(wrong)]) ++wrong;
    if (wrong < labels && bad_samples == BadSamples::skip) {
      ++skipped;
      continue;
    }
    if (wrong < labels)
      throw UsageError(file + " is damaged or of another format: record " + std::to_string(i) + " (counted from 0) has label " +
                       std::to_string(from[wrong]) + ", but labels are 0 to " + std::to_string(layout.classes[size_t(wrong)] - 1) +
                       "; fetch it again, or leave such records out with --bad-samples skip");
    pictures.labels.push_back(from[layout.label]);
    from += labels;
    for (int64_t p = 0; p < plane; ++p)
      for (int64_t c = 0; c < channels; ++c) pictures.pixels.push_back(from[c * plane + p]);
  }
  return skipped;
}

PictureSet load_cifar(Cifar kind, const std::string& directory, BadSamples bad_samples) {
  const Layout& layout = layout_of(kind);
  const fs::path folder = find_folder(layout, directory);
  PictureSet dataset{.name = layout.name,
                     .image = {1, 32, 32, channels},
                     .classes = layout.classes[layout.label],
                     .train = {},
                     .test = {},
                     .mean = layout.mean,
                     .deviation = layout.deviation,
                     .skipped = 0,
                     .class_names = names_in(folder / layout.names, layout.classes[layout.label])};
  for (const std::string& file : layout.train) append_file(folder / file, kind, bad_samples, dataset, dataset.train);
  for (const std::string& file : layout.test) append_file(folder / file, kind, bad_samples, dataset, dataset.test);
  return dataset;
}

}  // namespace pipecast
