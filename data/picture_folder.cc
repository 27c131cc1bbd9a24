// Pictures in folders: DIR/train/CLASS/ with the training pictures, DIR/val/CLASS/ or DIR/test/CLASS/ with those for testing, PNG or
// JPEG, in a class's folder or deeper. The classes are the folders of train in the order of their names. Tiny-ImageNet as it is unpacked is
// understood, too: val/images/ with the classes in val/val_annotations.txt.
#include <algorithm>
#include <set>

#include "data/class_folders.h"
#include "data/picture_files.h"
#include "engine/error.h"
#include "engine/files/durable_file.h"
#include "engine/utf8.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

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

namespace {

// of: its name, the mean and deviation that it is known by, and the files besides pictures that belong to it.
Dataset load(const fs::path& root, const DataOptions& options, Dataset of, const std::vector<std::string>& beside) {
  std::error_code ignored;  // what cannot be looked at is not there
  if (!fs::is_directory(root / "train", ignored)) throw UsageError("folder '" + (root / "train").string() + "' is not there" + layout);
  const fs::path test = root / (fs::is_directory(root / "val", ignored) ? "val" : "test");
  if (!fs::is_directory(test, ignored))
    throw UsageError("neither '" + (root / "val").string() + "' nor '" + (root / "test").string() + "' is there" + layout);

  ClassFolders reader({".png", ".jpg", ".jpeg"}, layout, beside);
  const std::vector<fs::path> folders = reader.folders(root / "train");
  std::vector<std::string> classes;
  for (const fs::path& folder : folders) classes.push_back(folder.filename().string());
  std::vector<ClassFile> training = samples(folders, classes, reader);
  std::vector<ClassFile> testing = fs::exists(test / annotations, ignored) ? annotated_samples(test, classes, reader, of.notes)
                                                                           : samples(reader.folders(test), classes, reader);
  if (training.empty()) throw UsageError("folder '" + (root / "train").string() + "' holds no pictures" + layout);
  if (testing.empty()) throw UsageError("folder '" + test.string() + "' holds no pictures" + layout);
  if (const auto empty = empty_classes(training, classes); !empty.empty())
    throw UsageError("class folder '" + (root / "train" / empty.front()).string() +
                     "' holds no pictures (PNG or JPEG); fill it or remove it");
  if (const auto empty = empty_classes(testing, classes); !empty.empty())
    of.notes.push_back("classes without pictures in '" + test.string() + "': " + counted(empty));
  for (const std::string& sentence : reader.left_out()) of.notes.push_back(sentence);
  of.classes = int64_t(classes.size()), of.class_names = classes;
  return dataset_of(std::move(training), std::move(testing), options, std::move(of));
}

}  // namespace

Dataset load_folder(const std::string& directory, const DataOptions& options) {
  if (directory.empty()) throw UsageError("data set folder needs a folder: folder:DIR" + layout);
  Dataset dataset;
  dataset.name = "folder";
  return load(directory, options, std::move(dataset), {});
}

Dataset load_tiny_imagenet(const std::string& directory, const DataOptions& options) {
  if (directory.empty()) throw UsageError("data set tiny-imagenet needs a folder: tiny-imagenet:DIR, where DIR holds train and val");
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored))
    throw UsageError("folder '" + directory + "' is not there; 'data/download tiny-imagenet " + directory + "' fetches the data");
  fs::path root = directory;
  if (!fs::exists(root / "train", ignored) && fs::is_directory(root / "tiny-imagenet-200", ignored)) root /= "tiny-imagenet-200";
  if (fs::is_directory(root / "val", ignored) && !fs::exists(root / "val" / annotations, ignored))
    throw UsageError("'" + (root / "val" / annotations).string() +
                     "', which names the classes of the pictures in val, is not there; fetch it again");
  Dataset dataset;
  dataset.name = "tiny-imagenet", dataset.mean = {.485f, .456f, .406f}, dataset.deviation = {.229f, .224f, .225f};
  dataset = load(root, options, std::move(dataset), {".txt"});
  if (fs::exists(root / "words.txt", ignored)) {
    const std::map<std::string, std::string> words = parse_annotations(text_of(read_file((root / "words.txt").string())), "words.txt");
    for (std::string& name : dataset.class_names)
      if (const auto word = words.find(name); word != words.end()) name = word->second;
  }
  return dataset;
}

}  // namespace pipecast
