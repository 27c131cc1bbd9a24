#pragma once
// Writes a run's metrics.jsonl; each line is in the file as soon as it is known. The file is locked meanwhile, so that no two processes
// train into one folder. Without a file the lines are kept in memory only.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace pipecast {

class Metrics {
 public:
  Metrics() = default;  // in memory only
  // Opens the file and keeps its lines, or creates it. Throws UsageError where another process writes it.
  explicit Metrics(std::string path);
  ~Metrics();
  Metrics(const Metrics&) = delete;

  // Cuts the file to its first `bytes` bytes and drops all lines in memory. Throws UsageError, and changes nothing, where the file is
  // shorter or the cut would not be at the end of a line.
  void cut(int64_t bytes);
  void write(nlohmann::ordered_json line);
  int64_t bytes() const { return bytes_; }
  void sync() const;  // returns when all lines are on the disk; may be called by another thread
  const std::vector<nlohmann::ordered_json>& lines() const { return lines_; }

 private:
  [[noreturn]] void fail() const;

  std::string path_;
  int file_ = -1;
  int64_t bytes_ = 0;
  std::vector<nlohmann::ordered_json> lines_;
};

}  // namespace pipecast
