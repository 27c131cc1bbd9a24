#pragma once
// A run's metrics.jsonl while the run writes it: each line is in the file as soon as it is known. The file is locked meanwhile, so that
// no two processes train into one folder. Without a file the lines are kept in memory only.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace pipecast {

class Metrics {
 public:
  Metrics() = default;  // in memory only
  // Makes the file where there is none and leaves what is in it. Throws UsageError where another process writes it.
  explicit Metrics(std::string path);
  ~Metrics();
  Metrics(const Metrics&) = delete;

  // Keeps the first `bytes` bytes of the file; of lines in memory, none. Throws UsageError, and changes nothing, where there are fewer or they
  // do not end with a line.
  void cut(int64_t bytes);
  void write(nlohmann::ordered_json line);
  int64_t bytes() const { return bytes_; }
  void sync() const;  // what was written outlives a failure of the machine; may be called by another thread
  const std::vector<nlohmann::ordered_json>& lines() const { return lines_; }

 private:
  [[noreturn]] void fail() const;

  std::string path_;
  int file_ = -1;
  int64_t bytes_ = 0;
  std::vector<nlohmann::ordered_json> lines_;
};

}  // namespace pipecast
