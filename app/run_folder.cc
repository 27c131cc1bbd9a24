#include "app/run_folder.h"

#include <filesystem>

#include "engine/durable_file.h"
#include "engine/error.h"

namespace pipecast {

namespace fs = std::filesystem;

void RunFolder::check_free(bool overwrite) const {
  std::error_code ignored;
  if (path_.empty()) throw UsageError("option --out is empty; name the run's folder");
  if (!fs::exists(path_, ignored)) return;
  if (!fs::is_directory(path_, ignored)) throw UsageError("'" + path_ + "' is not a folder; choose another --out");
  if (fs::is_empty(path_, ignored)) return;
  if (!fs::exists(config(), ignored) || !fs::exists(metrics(), ignored))
    throw UsageError("'" + path_ + "' holds other files than a run's; choose another --out");
  if (!overwrite) throw UsageError("'" + path_ + "' holds a run already; choose another --out, or give --overwrite");
}

void RunFolder::check_finished() const {
  std::error_code ignored;
  if (!fs::exists(config(), ignored)) throw UsageError("'" + path_ + "' holds no run: there is no file '" + config() + "'");
  if (!fs::exists(weights(), ignored))
    throw UsageError("run '" + path_ + "' has no weights: its training did not come to the end; repeat it with 'pipecast train --config " +
                     config() + " --out " + path_ + " --overwrite'");
}

void RunFolder::create(const std::string& configuration) const {
  std::error_code failure;
  fs::create_directories(path_, failure);
  if (failure) throw UsageError("folder '" + path_ + "' cannot be made: " + failure.message() + "; choose another --out");
  for (const std::string& file : {weights(), report()}) fs::remove(file, failure);
  write_file(metrics(), "");
  write_file(config(), configuration);
}

void write_file(const std::string& path, const std::string& text) { write_durably(path, pieces_of(text)); }

}  // namespace pipecast
