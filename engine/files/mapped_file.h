#pragma once
// A file's bytes as memory that is read from the disk where it is touched, and is the system's to drop again.
#include <cstdint>
#include <span>
#include <string>

namespace pipecast {

class MappedFile {
 public:
  // Throws UsageError naming the file: not there, no file, no permission.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // They stay at their place. The file must not become shorter meanwhile: the system ends a process that reads behind its end.
  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace pipecast
