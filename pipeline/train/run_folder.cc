#include "pipeline/train/run_folder.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "engine/files/durable_file.h"
#include "engine/error.h"

namespace pipecast {

namespace fs = std::filesystem;

namespace {

// Nothing but what a run makes first of all: metrics without a line, and a configuration that is not whole yet.
bool began_and_ended(const RunFolder& folder) {
  std::error_code ignored;
  bool nothing_else = fs::file_size(folder.metrics(), ignored) == 0;
  for (const auto& entry : fs::directory_iterator(folder.path(), ignored))
    nothing_else = nothing_else && (entry.path() == folder.metrics() || entry.path() == folder.config() + ".tmp");
  return nothing_else;
}

}  // namespace

bool RunFolder::owns(const std::string& path) const {
  const auto real = [](const std::string& name) {
    std::error_code ignored;
    return fs::weakly_canonical(fs::absolute(name), ignored);
  };
  const fs::path file = real(path), folder = real(checkpoints());
  for (const std::string& own : {config(), metrics(), weights(), best_weights(), report(), trace(), log()})
    if (file == real(own)) return true;
  return std::mismatch(folder.begin(), folder.end(), file.begin(), file.end()).first == folder.end();
}

void RunFolder::check_free(bool overwrite) const {
  std::error_code ignored;
  if (path_.empty()) throw UsageError("option --out is empty; name the run's folder");
  if (!fs::exists(path_, ignored)) return;
  if (!fs::is_directory(path_, ignored)) throw UsageError("'" + path_ + "' is not a folder; choose another --out");
  if (fs::is_empty(path_, ignored) || began_and_ended(*this)) return;
  if (!fs::exists(config(), ignored) || !fs::exists(metrics(), ignored))
    throw UsageError("'" + path_ + "' holds other files than a run's; choose another --out");
  if (!overwrite)
    throw UsageError("'" + path_ + "' holds a run already; choose another --out, give --overwrite, or go on with it by --resume " + path_);
}

void RunFolder::check_finished() const {
  std::error_code ignored;
  if (!fs::exists(config(), ignored)) throw UsageError("'" + path_ + "' holds no run: there is no file '" + config() + "'");
  if (!fs::exists(weights(), ignored))
    throw UsageError("run '" + path_ +
                     "' has no weights: its training did not come to the end; go on with it by 'pipecast train --resume " + path_ + "'");
}

void RunFolder::check_resumable() const {
  std::error_code ignored;
  if (path_.empty()) throw UsageError("option --resume is empty; name the folder of the run that is to go on");
  if (!fs::exists(config(), ignored) || !fs::exists(metrics(), ignored))
    throw UsageError("'" + path_ + "' holds no run: there is no file '" + (fs::exists(config(), ignored) ? metrics() : config()) + "'");
}

void RunFolder::make() const {
  std::error_code failure;
  fs::create_directories(path_, failure);
  if (failure) throw UsageError("folder '" + path_ + "' cannot be made: " + failure.message() + "; choose another --out");
}

void RunFolder::create(const std::string& configuration) const {
  make();
  // First, so that the new configuration never stands beside an earlier run's checkpoints.
  std::error_code failure;
  fs::remove_all(checkpoints(), failure);
  if (failure) throw Error("folder '" + checkpoints() + "' cannot be removed: " + failure.message());
  for (const std::string& file : {trace(), best_weights()}) fs::remove(file, failure);
  // The file itself is emptied, not replaced: who trains into the folder holds a lock on it.
  if (!std::ofstream(metrics(), std::ios::trunc)) throw Error("file '" + metrics() + "' cannot be written; check the folder's permissions");
  reopen(configuration);
}

void RunFolder::reopen(const std::string& configuration) const {
  std::error_code ignored;
  for (const std::string& file : {weights(), report()}) fs::remove(file, ignored);
  write_file(config(), configuration);
}

void write_file(const std::string& path, const std::string& text) { write_durably(path, pieces_of(text)); }

}  // namespace pipecast
