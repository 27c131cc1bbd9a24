#include "engine/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine/error.h"

namespace pipecast {

MappedFile::MappedFile(const std::string& path) {
  const auto refuse = [&](const std::string& why) { throw UsageError("cannot read '" + path + "': " + why); };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // not blocking: a pipe would wait for its writer
  if (file < 0) refuse(std::strerror(errno));
  struct stat status;
  const bool known = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const size_t size = known ? size_t(status.st_size) : 0;
  void* memory = size > 0 ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
  const int reason = errno;
  close(file);  // the mapping stays
  if (!known) refuse("it is no regular file");
  if (memory == MAP_FAILED) refuse(std::strerror(reason));
  bytes_ = {static_cast<const uint8_t*>(memory), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

}  // namespace pipecast
