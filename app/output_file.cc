#include "app/output_file.h"

#include <unistd.h>

#include <filesystem>

#include "engine/error.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

fs::path real(const std::string& path) {
  std::error_code ignored;
  return fs::weakly_canonical(fs::absolute(path), ignored);
}

// The folder of the run that keeps this file; "" for none.
std::string run_of(const fs::path& file) {
  std::error_code ignored;
  for (fs::path folder = file.parent_path(); folder.has_relative_path(); folder = folder.parent_path()) {
    const RunFolder run(folder.string());
    if (fs::exists(run.config(), ignored) && fs::exists(run.metrics(), ignored) && run.owns(file.string())) return folder.string();
  }
  return "";
}

}  // namespace

void check_output_file(const std::string& option, const std::string& path, const std::vector<std::string>& inputs) {
  const std::string what = "option --" + option + ": '" + path + "' ";
  const fs::path file = real(path);
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) throw UsageError(what + "is a folder; name a file in it");
  if (fs::exists(file, ignored) && !fs::is_regular_file(file, ignored)) return;  // /dev/stdout, say
  const fs::path folder = file.parent_path();
  if (!fs::is_directory(folder, ignored)) throw UsageError(what + "cannot be made, as there is no such folder; make it, or name another file");
  if (access(folder.c_str(), W_OK) != 0) throw UsageError(what + "cannot be made, as its folder may not be written to; name another file");
  for (const std::string& input : inputs)
    if (!input.empty() && file == real(input)) throw UsageError(what + "is read by this command and would be overwritten; name another file");
  if (const std::string run = run_of(file); !run.empty())
    throw UsageError(what + "is a file of the run in '" + run + "', which would be lost; name another file");
}

void check_input_file(const std::string& option, const std::string& path, const RunFolder& folder) {
  if (!path.empty() && folder.owns(path))
    throw UsageError("option --" + option + ": '" + path + "' is a file that the run in '" + folder.path() +
                     "' would replace; choose another --out, or copy the file elsewhere");
}

}  // namespace pipecast
