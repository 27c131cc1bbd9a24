#pragma once
// The files of a data set that has a folder per class, PART/CLASS/FILE, in an order that is the same on every machine. Whatever is hidden,
// its name beginning with a dot, is no data. What else is left out is counted.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace pipecast {

class ClassFolders {
 public:
  // endings: of the files that are samples, in lower case. layout: continues the sentence that refuses a folder. known: endings of files
  // that are no samples and belong to the data set; they are not counted.
  ClassFolders(std::vector<std::string> endings, std::string layout, std::vector<std::string> known = {});

  // Both throw UsageError for a folder that cannot be read, and for a symbolic link that leads nowhere or back to a folder around it.
  std::vector<std::filesystem::path> folders(const std::filesystem::path& part);  // in this part, by name
  // The samples in this folder and in the folders below it, by name. `list`: a file that is no sample, and not left out.
  std::vector<std::filesystem::path> files(const std::filesystem::path& folder, const std::string& list = "");

  // What both have left out, in numbers, a sentence per reason.
  std::vector<std::string> left_out() const;

 private:
  using Paths = std::vector<std::filesystem::path>;

  bool is_sample(const std::filesystem::path&) const;
  Paths entries(const std::filesystem::path& folder) const;
  bool is_folder(const std::filesystem::path&, const Paths& around) const;
  void collect(const std::filesystem::path& folder, const std::string& list, Paths around, Paths& files);

  std::vector<std::string> endings_, known_;
  std::string layout_;
  std::map<std::string, int64_t> other_types_;  // by ending
  int64_t beside_ = 0;                          // the folders
};

// The lines of a file that names the classes in their order; none where it is not there or has not so many lines.
std::vector<std::string> names_in(const std::filesystem::path& file, int64_t classes);

struct ClassFile {
  std::string path;
  int32_t label;
};
// The classes, numbered in their order, that none of the files has.
std::vector<std::string> empty_classes(const std::vector<ClassFile>&, const std::vector<std::string>& classes);

// "3 ('a', 'b', 'c')", or of many the first ones.
std::string counted(const std::vector<std::string>& names);

}  // namespace pipecast
