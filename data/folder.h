#pragma once
// What is in a folder, in an order that is the same on every machine.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/error.h"

namespace pipecast {

// The entries that are `wanted`, by name. Throws UsageError for a folder that cannot be read; `hint` continues the sentence.
template <class F>
std::vector<std::filesystem::path> folder_entries(const std::filesystem::path& folder, F wanted, const std::string& hint = "") {
  std::vector<std::filesystem::path> paths;
  try {
    for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(folder))
      if (wanted(entry)) paths.push_back(entry.path());
  } catch (const std::filesystem::filesystem_error& error) {
    throw UsageError("folder '" + folder.string() + "' cannot be read: " + error.code().message() + hint);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace pipecast
