#pragma once
// A run's folder and its files.
#include <string>

namespace pipecast {

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string weights() const { return path_ + "/weights.safetensors"; }
  std::string best_weights() const { return path_ + "/weights-best.safetensors"; }  // of the best evaluation so far
  std::string report() const { return path_ + "/report.html"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string trace() const { return path_ + "/trace.json"; }
  std::string log() const { return path_ + "/log.txt"; }  // what a run printed that another command started

  // Whether the path leads to one of these files, or into the checkpoints, there or not.
  bool owns(const std::string& path) const;

  // Throws UsageError where a run must not be written: over another run unless `overwrite`, over anything else never.
  void check_free(bool overwrite) const;
  // Throws UsageError where no finished run is.
  void check_finished() const;
  // Throws UsageError where no run is that could go on.
  void check_resumable() const;
  // Creates the folder if it is missing; keeps what is in it.
  void make() const;
  // Creates the folder or removes an earlier run's files from it; writes the configuration and an empty metrics file.
  void create(const std::string& configuration) const;
  // For resuming: writes the configuration and removes the files that only a finished run has.
  void reopen(const std::string& configuration) const;

 private:
  std::string path_;
};

// Written to a temporary name, then renamed: a reader never sees half a file. Throws Error naming the path.
void write_file(const std::string& path, const std::string& text);

}  // namespace pipecast
