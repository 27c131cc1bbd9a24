#include "data/class_folders.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <set>
#include <utility>

#include "engine/error.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

constexpr size_t most_named = 5;

std::string ending_of(const fs::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = char(std::tolower(static_cast<unsigned char>(c)));
  return ending;
}

bool contains(const std::vector<std::string>& list, const std::string& text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

// Whether `path` is `folder` or lies in it.
bool lies_in(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

fs::path real(const fs::path& folder, const std::string& layout) {
  std::error_code failure;
  fs::path path = fs::canonical(folder, failure);
  if (failure) throw UsageError("folder '" + folder.string() + "' cannot be read: " + failure.message() + layout);
  return path;
}

}  // namespace

ClassFolders::ClassFolders(std::vector<std::string> endings, std::string layout, std::vector<std::string> known)
    : endings_(std::move(endings)), known_(std::move(known)), layout_(std::move(layout)) {}

bool ClassFolders::is_sample(const fs::path& path) const { return contains(endings_, ending_of(path)); }

ClassFolders::Paths ClassFolders::entries(const fs::path& folder) const {
  Paths paths;
  try {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder))
      if (!entry.path().filename().string().starts_with('.')) paths.push_back(entry.path());
  } catch (const fs::filesystem_error& error) {
    throw UsageError("folder '" + folder.string() + "' cannot be read: " + error.code().message() + layout_);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// around: the folders that are being read, each in the one before, without symbolic links.
bool ClassFolders::is_folder(const fs::path& path, const Paths& around) const {
  std::error_code failure, ignored;
  const fs::file_status status = fs::status(path, failure);
  if (!fs::exists(status) || failure) {
    if (is_sample(path)) return false;  // reading it will say what is wrong, as of any damaged sample
    throw UsageError((fs::is_symlink(path, ignored) ? "symbolic link '" : "'") + path.string() + "' leads nowhere: " + failure.message() +
                     "; mend it or take it out of the folder");
  }
  if (!fs::is_directory(status)) return false;
  if (!fs::is_symlink(path, ignored)) return true;
  const fs::path target = real(path, layout_);
  for (const fs::path& folder : around)
    if (lies_in(folder, target))
      throw UsageError("symbolic link '" + path.string() + "' leads back to '" + target.string() +
                       "', a folder around it, without end; take the link out of the folder");
  return true;
}

ClassFolders::Paths ClassFolders::folders(const fs::path& part) {
  Paths paths = entries(part);
  const Paths around = {real(part, layout_)};
  beside_ += int64_t(std::erase_if(paths, [&](const fs::path& path) { return !is_folder(path, around); }));
  return paths;
}

ClassFolders::Paths ClassFolders::files(const fs::path& folder, const std::string& list) {
  Paths files;
  collect(folder, list, {}, files);
  return files;
}

void ClassFolders::collect(const fs::path& folder, const std::string& list, Paths around, Paths& files) {
  around.push_back(real(folder, layout_));
  for (const fs::path& path : entries(folder)) {
    if (is_folder(path, around)) collect(path, list, around, files);
    else if (is_sample(path)) files.push_back(path);
    else if (path.filename() != list && !contains(known_, ending_of(path))) ++other_types_[ending_of(path)];
  }
}

std::vector<std::string> ClassFolders::left_out() const {
  std::vector<std::string> sentences;
  int64_t count = 0;
  std::vector<std::pair<int64_t, std::string>> types;  // the frequent ones first
  for (const auto& [ending, files] : other_types_) count += files, types.emplace_back(-files, ending);
  std::sort(types.begin(), types.end());
  std::string list;
  for (size_t k = 0; k < std::min(types.size(), most_named); ++k)
    list += (k > 0 ? ", " : "") + (types[k].second.empty() ? "no ending" : shown(types[k].second)) + " " + std::to_string(-types[k].first);
  if (types.size() > most_named) list += ", ...";
  if (count > 0) sentences.push_back("files of other types left out: " + std::to_string(count) + " (" + list + ")");
  if (beside_ > 0) sentences.push_back("files beside the class folders left out: " + std::to_string(beside_));
  return sentences;
}

std::vector<std::string> empty_classes(const std::vector<ClassFile>& files, const std::vector<std::string>& classes) {
  std::set<int32_t> labels;
  for (const ClassFile& file : files) labels.insert(file.label);
  std::vector<std::string> empty;
  for (size_t k = 0; k < classes.size(); ++k)
    if (!labels.contains(int32_t(k))) empty.push_back(classes[k]);
  return empty;
}

std::vector<std::string> names_in(const std::filesystem::path& file, int64_t classes) {
  std::vector<std::string> names;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (!line.empty()) names.push_back(line);
  }
  if (int64_t(names.size()) != classes) names.clear();
  return names;
}

std::string counted(const std::vector<std::string>& names) {
  std::string list;
  for (size_t k = 0; k < std::min(names.size(), most_named); ++k) list += (k > 0 ? ", '" : "'") + shown(names[k]) + "'";
  return std::to_string(names.size()) + " (" + list + (names.size() > most_named ? ", ...)" : ")");
}

}  // namespace pipecast
