#include "pipeline/train/metrics.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "pipeline/train/run_result.h"
#include "engine/error.h"

namespace pipecast {

Metrics::Metrics(std::string path) : path_(std::move(path)), file_(open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (file_ < 0) fail();
  if (flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;  // some file systems have no locks
  close(file_);
  throw UsageError("another process is training into the folder of '" + path_ + "'; wait for it to end, or choose another --out");
}

Metrics::~Metrics() {
  if (file_ >= 0) close(file_);
}

void Metrics::fail() const {
  throw Error("file '" + path_ + "' cannot be written; check the disk's free space and the folder's permissions");
}

void Metrics::cut(int64_t bytes) {
  if (file_ < 0) return lines_.clear();
  char last = 0;
  if (bytes > 0 && (pread(file_, &last, 1, bytes - 1) != 1 || last != '\n'))
    throw UsageError("file '" + path_ + "' does not begin with the lines that it had when the checkpoint was made; put it back as it was");
  std::vector<nlohmann::ordered_json> lines = read_metrics(path_, bytes);
  if (ftruncate(file_, bytes) != 0) fail();
  bytes_ = bytes;
  lines_ = std::move(lines);
}

void Metrics::write(nlohmann::ordered_json line) {
  const std::string text = line.dump() + "\n";
  for (size_t done = file_ < 0 ? text.size() : 0; done < text.size();) {
    const ssize_t written = ::write(file_, text.data() + done, text.size() - done);
    if (written <= 0) fail();
    done += size_t(written);
  }
  bytes_ += int64_t(text.size());
  lines_.push_back(std::move(line));
}

void Metrics::sync() const {
  if (file_ >= 0 && fsync(file_) != 0) fail();
}

}  // namespace pipecast
