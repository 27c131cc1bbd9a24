// Pictures in folders: DIR/train/CLASS/ with the training pictures, DIR/val/CLASS/ or DIR/test/CLASS/ with those for testing, PNG or
// JPEG, in a class's folder or deeper. The classes are the folders of train in the order of their names. Tiny-ImageNet as it is unpacked is
// understood, too: val/images/ with the classes in val/val_annotations.txt.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>

#include "data/class_folders.h"
#include "data/pictures.h"
#include "data/picture.h"
#include "engine/files/durable_file.h"
#include "engine/error.h"
#include "engine/launch.h"
#include "engine/utf8.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t most_bytes = uint64_t(1) << 36;          // of all pictures, decoded
constexpr uint64_t most_picture_bytes = uint64_t(1) << 27;  // of a file
const std::string layout = "; the layout is DIR/train/CLASS/*.png (or jpg) and DIR/val/CLASS/* (or test)";
const std::string annotations = "val_annotations.txt";

int32_t label_of(const std::string& name, const std::vector<std::string>& classes, const std::string& where) {
  const auto found = std::lower_bound(classes.begin(), classes.end(), name);
  if (found == classes.end() || *found != name)
    throw UsageError(where + " names the class '" + shown(name) + "', of which there is no folder in train" + layout);
  return int32_t(found - classes.begin());
}

std::vector<ClassFile> annotated_samples(const fs::path& part, const std::vector<std::string>& classes, ClassFolders& reader,
                                         std::vector<std::string>& notes) {
  const std::string list = (part / annotations).string();
  const auto class_of = parse_annotations(text_of(read_file(list)), list);
  std::vector<ClassFile> all;
  std::set<std::string> missing;
  for (const auto& [name, own_class] : class_of) missing.insert(name);
  for (const fs::path& path : reader.files(part, annotations)) {
    const auto found = class_of.find(path.filename().string());
    if (found == class_of.end()) throw UsageError("'" + list + "' names no class for '" + path.string() + "'; add it there");
    all.push_back({path.string(), label_of(found->second, classes, "'" + list + "'")});
    missing.erase(found->first);
  }
  if (!missing.empty())
    notes.push_back("pictures that '" + list + "' names and that are not there: " + counted({missing.begin(), missing.end()}));
  return all;
}

std::vector<ClassFile> samples(const std::vector<fs::path>& folders, const std::vector<std::string>& classes, ClassFolders& reader) {
  std::vector<ClassFile> all;
  for (const fs::path& folder : folders)
    for (const fs::path& path : reader.files(folder))
      all.push_back({path.string(), label_of(folder.filename().string(), classes, "'" + folder.string() + "'")});
  return all;
}

// The shape of the first picture that has one.
Shape first_shape(const std::vector<ClassFile>& samples, const DataOptions& options) {
  for (const ClassFile& sample : samples) try {
      return picture_shape(text_of(read_file(sample.path, most_picture_bytes)), sample.path, options.orientation);
    } catch (const UsageError&) {
      if (options.bad_samples == BadSamples::fail) throw;
    }
  throw UsageError("none of the " + std::to_string(samples.size()) + " pictures from '" + samples.front().path + "' on can be read");
}

// What came of a sample.
struct ReadSample {
  std::string sized, damaged;  // what is wrong
  bool turned = false;         // its EXIF data say that it is not stored upright
};

// Decodes all samples into `pixels`, on all threads.
std::vector<ReadSample> decode_all(const std::vector<ClassFile>& samples, const Shape& shape, Orientation orientation, uint8_t* pixels) {
  std::vector<ReadSample> readings(samples.size());
  std::exception_ptr failure;  // the last one: memory ran out, say. It must not leave a thread.
  std::mutex mutex;
  parallel(int64_t(samples.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) try {
        const std::string& path = samples[size_t(i)].path;
        const std::vector<uint8_t> bytes_of_file = read_file(path, most_picture_bytes);
        const std::string_view file = text_of(bytes_of_file);
        const Shape own = picture_shape(file, path, orientation);
        if (own == shape) readings[size_t(i)].turned = decode_picture(file, path, shape, pixels + i * shape.count(), orientation) != 1;
        else
          readings[size_t(i)].sized = "picture '" + path + "' is " + std::to_string(own.w) + " x " + std::to_string(own.h) +
                                      ", and the first one '" + samples.front().path + "' is " + std::to_string(shape.w) + " x " +
                                      std::to_string(shape.h) + "; make all pictures of one size";
      } catch (const UsageError& error) {
        readings[size_t(i)].damaged = error.what();
      } catch (...) {
        std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
  });
  if (failure) std::rethrow_exception(failure);
  return readings;
}

// A class that lost all of its pictures would leave the model without it, and nobody would know.
void check_none_emptied(const std::vector<ClassFile>& samples, const std::vector<int32_t>& kept) {
  const std::set<int32_t> left(kept.begin(), kept.end());
  for (const ClassFile& sample : samples)
    if (!left.contains(sample.label))
      throw UsageError("all pictures of the class of '" + sample.path + "' are damaged; mend them or take the class's folder out");
}

// Reads the samples; adds what it skips to the data set's, and returns how many of the others are not stored upright.
int64_t read(const std::vector<ClassFile>& samples, const DataOptions& options, PictureSet& dataset, Pictures& to) {
  const Shape& shape = dataset.image;
  const int64_t count = int64_t(samples.size()), bytes = shape.count();
  if (uint64_t(count) > most_bytes / uint64_t(bytes))
    throw UsageError(std::to_string(count) + " pictures of " + std::to_string(shape.w) + " x " + std::to_string(shape.h) +
                     " take more memory than " + std::to_string(most_bytes) + " bytes; make them smaller");
  to.pixels.resize(size_t(count * bytes));
  const std::vector<ReadSample> readings = decode_all(samples, shape, options.orientation, to.pixels.data());
  // In their order, so that the same one is named each time. A size of its own is no damage: skipping would hide a data set's mistake.
  int64_t kept = 0, turned = 0;
  for (int64_t i = 0; i < count; ++i) {
    const ReadSample& reading = readings[size_t(i)];
    if (!reading.sized.empty()) throw UsageError(reading.sized);
    if (!reading.damaged.empty() && options.bad_samples == BadSamples::fail) throw UsageError(reading.damaged);
    if (!reading.damaged.empty()) continue;
    if (kept < i) std::memcpy(to.pixels.data() + kept * bytes, to.pixels.data() + i * bytes, size_t(bytes));
    to.labels.push_back(samples[size_t(i)].label);
    ++kept, turned += reading.turned;
  }
  if (kept == 0) throw UsageError("all " + std::to_string(count) + " pictures are damaged; the first: " + readings.front().damaged);
  check_none_emptied(samples, to.labels);
  to.pixels.resize(size_t(kept * bytes));
  dataset.skipped += count - kept;
  return turned;
}

// Of pixel / 255 over all pictures. The sums are whole numbers: the same bits in whatever order.
void describe(PictureSet& dataset) {
  const std::vector<uint8_t>& pixels = dataset.train.pixels;
  const size_t channels = size_t(dataset.image.c);
  const double count = double(pixels.size() / channels);
  for (size_t c = 0; c < channels; ++c) {
    uint64_t sum = 0, squares = 0;
    for (size_t i = c; i < pixels.size(); i += channels) sum += pixels[i], squares += uint64_t(pixels[i]) * pixels[i];
    const double mean = double(sum) / count, variance = double(squares) / count - mean * mean;
    dataset.mean.push_back(float(mean / 255));
    // A channel that never changes becomes 0, not something divided by nothing.
    dataset.deviation.push_back(variance > 1e-6 ? float(std::sqrt(variance) / 255) : 1);
  }
}

}  // namespace

std::map<std::string, std::string> parse_annotations(std::string_view text, const std::string& file) {
  std::map<std::string, std::string> class_of;
  text = without_byte_order_mark(text);
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const size_t first = line.find('\t'), second = line.find_first_of("\t\r", first == line.npos ? first : first + 1);
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string_view name = line.substr(0, first);
    if (first == line.npos || name.empty() || second == first + 1 || first + 1 == line.size())
      throw UsageError("'" + file + "' line " + std::to_string(number) +
                       " is not a picture's name, a tab and its class; correct it, or fetch the file again");
    if (!class_of.emplace(name, line.substr(first + 1, second == line.npos ? second : second - first - 1)).second)
      throw UsageError("'" + file + "' line " + std::to_string(number) + " names '" + shown(name) + "' a second time; name it once");
  }
  return class_of;
}

PictureSet load_folder(const std::string& directory, const DataOptions& options) {
  if (directory.empty()) throw UsageError("data set folder needs a folder: folder:DIR" + layout);
  const fs::path root = directory;
  std::error_code ignored;  // what cannot be looked at is not there
  if (!fs::is_directory(root / "train", ignored)) throw UsageError("folder '" + (root / "train").string() + "' is not there" + layout);
  const fs::path test = root / (fs::is_directory(root / "val", ignored) ? "val" : "test");
  if (!fs::is_directory(test, ignored))
    throw UsageError("neither '" + (root / "val").string() + "' nor '" + (root / "test").string() + "' is there" + layout);

  ClassFolders reader({".png", ".jpg", ".jpeg"}, layout);
  const std::vector<fs::path> folders = reader.folders(root / "train");
  std::vector<std::string> classes, notes;
  for (const fs::path& folder : folders) classes.push_back(folder.filename().string());
  const std::vector<ClassFile> training = samples(folders, classes, reader);
  const std::vector<ClassFile> testing = fs::exists(test / annotations, ignored) ? annotated_samples(test, classes, reader, notes)
                                                                              : samples(reader.folders(test), classes, reader);
  if (training.empty()) throw UsageError("folder '" + (root / "train").string() + "' holds no pictures" + layout);
  if (testing.empty()) throw UsageError("folder '" + test.string() + "' holds no pictures" + layout);
  if (const auto empty = empty_classes(training, classes); !empty.empty())
    throw UsageError("class folder '" + (root / "train" / empty.front()).string() + "' holds no pictures (PNG or JPEG); fill it or remove it");
  if (const auto empty = empty_classes(testing, classes); !empty.empty())
    notes.push_back("classes without pictures in '" + test.string() + "': " + counted(empty));
  for (const std::string& sentence : reader.left_out()) notes.push_back(sentence);
  PictureSet dataset{.name = "folder",
                  .image = first_shape(training, options),
                  .classes = int64_t(classes.size()),
                  .train = {},
                  .test = {},
                  .mean = {},
                  .deviation = {},
                  .skipped = 0,
                  .notes = notes};
  const int64_t turned = read(training, options, dataset, dataset.train) + read(testing, options, dataset, dataset.test);
  if (turned > 0)
    dataset.notes.push_back("pictures whose EXIF data say that they are stored turned or mirrored: " + std::to_string(turned) +
                            (options.orientation == Orientation::apply ? ", turned upright"
                                                                       : ", taken as stored; --orientation apply turns them upright"));
  describe(dataset);
  return dataset;
}

}  // namespace pipecast
