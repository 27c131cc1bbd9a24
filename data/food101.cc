// Food-101 as it is unpacked: images/CLASS/NAME.jpg; meta/train.txt and meta/test.txt list CLASS/NAME, a line each.
#include <algorithm>
#include <filesystem>
#include <set>

#include "data/picture_files.h"
#include "engine/error.h"
#include "engine/files/durable_file.h"
#include "engine/utf8.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

using Listed = std::vector<std::pair<std::string, std::string>>;  // class and name

Listed read_list(const fs::path& path) {
  Listed listed = parse_food101_list(text_of(read_file(path.string())), path.string());
  if (listed.empty()) throw UsageError("'" + path.string() + "' lists no pictures; fetch it again");
  return listed;
}

std::vector<ClassFile> files_of(const Listed& listed, const fs::path& root, const std::vector<std::string>& classes,
                                const std::string& list) {
  std::vector<ClassFile> files;
  for (const auto& [own_class, name] : listed) {
    const auto found = std::lower_bound(classes.begin(), classes.end(), own_class);
    if (found == classes.end() || *found != own_class)
      throw UsageError("'" + list + "' has a class '" + shown(own_class) + "' that meta/train.txt does not have; fetch both again");
    files.push_back({(root / "images" / own_class / (name + ".jpg")).string(), int32_t(found - classes.begin())});
  }
  return files;
}

}  // namespace

Listed parse_food101_list(std::string_view text, const std::string& file) {
  Listed listed;
  text = without_byte_order_mark(text);
  for (size_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const size_t slash = line.find('/');
    if (slash == line.npos || slash == 0 || slash + 1 == line.size() || line.find('/', slash + 1) != line.npos)
      throw UsageError("'" + file + "' line " + std::to_string(number) + " is not CLASS/NAME; correct it, or fetch the file again");
    listed.emplace_back(line.substr(0, slash), line.substr(slash + 1));
  }
  return listed;
}

Dataset load_food101(const std::string& directory, const DataOptions& options) {
  if (directory.empty()) throw UsageError("data set food101 needs a folder: food101:DIR, where DIR holds images and meta");
  std::error_code ignored;  // what cannot be looked at is not there
  if (!fs::is_directory(directory, ignored))
    throw UsageError("folder '" + directory + "' is not there; 'data/download food101 " + directory + "' fetches the data");
  fs::path root = directory;
  if (!fs::exists(root / "meta", ignored) && fs::is_directory(root / "food-101", ignored)) root /= "food-101";
  const fs::path train = root / "meta" / "train.txt", test = root / "meta" / "test.txt";
  const Listed training = read_list(train), testing = read_list(test);
  std::set<std::string> names;
  for (const auto& [own_class, name] : training) names.insert(own_class);
  const std::vector<std::string> classes(names.begin(), names.end());
  Dataset dataset;
  dataset.name = "food101", dataset.classes = int64_t(classes.size());
  dataset.mean = {.485f, .456f, .406f}, dataset.deviation = {.229f, .224f, .225f};
  return dataset_of(files_of(training, root, classes, train.string()), files_of(testing, root, classes, test.string()), options, dataset);
}

}  // namespace pipecast
