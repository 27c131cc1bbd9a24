#include "engine/files/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>

#include "engine/error.h"

namespace pipecast {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void refuse(const std::string& path, int reason) {
  throw Error("cannot write '" + path + "': " + std::strerror(reason) + "; check the disk's free space and the folder's permissions");
}

struct Descriptor {
  const int number;
  ~Descriptor() {
    if (number >= 0) close(number);  // what was synced cannot fail any more
  }
};

void write_all(int descriptor, const std::string& path, const Pieces& pieces) {
  for (std::span<const uint8_t> left : pieces)
    while (!left.empty()) {
      const ssize_t written = write(descriptor, left.data(), left.size());
      if (written < 0 && errno != EINTR) refuse(path, errno);
      if (written > 0) left = left.subspan(size_t(written));
    }
}

// The folder that a path's last name stands in.
std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

// The file that a path leads to. A symbolic link stays one; one that leads nowhere is replaced.
std::string target_of(const std::string& path) {
  std::error_code failure;
  const fs::path target = fs::canonical(path, failure);
  return failure ? path : target.string();
}

}  // namespace

Pieces pieces_of(std::string_view text) { return {{reinterpret_cast<const uint8_t*>(text.data()), text.size()}}; }

void write_durably(const std::string& path, const Pieces& pieces) {
  std::error_code ignored;
  if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored)) {  // /dev/stdout, say: nothing to rename over, nothing to sync
    const Descriptor device{open(path.c_str(), O_WRONLY | O_CLOEXEC)};
    if (device.number < 0) refuse(path, errno);
    return write_all(device.number, path, pieces);
  }
  const std::string target = target_of(path), temporary = target + ".tmp";
  try {
    write_synced(temporary, pieces);
    if (const fs::file_status before = fs::status(target, ignored); fs::exists(before)) fs::permissions(temporary, before.permissions(), ignored);
    rename_durably(temporary, target);
  } catch (const Error&) {
    fs::remove(temporary, ignored);
    throw;
  }
}

void write_synced(const std::string& path, const Pieces& pieces) {
  const Descriptor file{open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
  if (file.number < 0) refuse(path, errno);
  write_all(file.number, path, pieces);
  if (fsync(file.number) != 0) refuse(path, errno);
}

void sync_folder(const std::string& path) {
  const Descriptor folder{open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.number < 0) refuse(path, errno);
  if (fsync(folder.number) != 0 && errno != EINVAL) refuse(path, errno);  // EINVAL: a file system whose folders cannot be synced
}

void rename_durably(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) refuse(to, errno);
  sync_folder(parent_of(to));
}

void make_folder_durably(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return;
  if (parent_of(path) != path) make_folder_durably(parent_of(path));
  if (mkdir(path.c_str(), 0777) != 0)
    if (const int reason = errno; !fs::is_directory(path, ignored)) refuse(path, reason);  // PATH/ is made once its parent, PATH, is
  sync_folder(parent_of(path));
}

namespace {

uint64_t size_of(const std::string& path) {
  std::error_code failure;
  const uintmax_t size = fs::file_size(path, failure);  // before it is opened: opening a pipe would wait for its writer
  if (failure) throw UsageError("cannot read '" + path + "': " + failure.message());
  return size;
}

std::vector<uint8_t> first_bytes(const std::string& path, uint64_t count) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw UsageError("cannot read '" + path + "': " + std::strerror(errno));
  std::vector<uint8_t> bytes;
  try {
    bytes.resize(count);
  } catch (const std::bad_alloc&) {
    throw UsageError("cannot read '" + path + "': there is no memory for its " + std::to_string(count) + " bytes");
  }
  if (std::fread(bytes.data(), 1, count, file.get()) != count) throw UsageError("cannot read '" + path + "': it ended before its size");
  return bytes;
}

}  // namespace

std::vector<uint8_t> read_file(const std::string& path, uint64_t most_bytes) {
  const uint64_t size = size_of(path);
  if (size > most_bytes)
    throw UsageError("cannot read '" + path + "': it has " + std::to_string(size) + " bytes, more than the " + std::to_string(most_bytes) +
                     " it may have");
  return first_bytes(path, size);
}

std::vector<uint8_t> read_beginning(const std::string& path, uint64_t most_bytes, uint64_t& size) {
  size = size_of(path);
  return first_bytes(path, std::min(size, most_bytes));
}

std::vector<uint8_t> read_file_or_pipe(const std::string& path, uint64_t most_bytes) {
  std::error_code ignored;
  if (!fs::is_fifo(path, ignored) && !fs::is_character_file(path, ignored)) return read_file(path, most_bytes);
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw UsageError("cannot read '" + path + "': " + std::strerror(errno));
  std::vector<uint8_t> bytes;
  uint8_t some[4096];
  while (const size_t got = std::fread(some, 1, sizeof some, file.get())) {
    bytes.insert(bytes.end(), some, some + got);
    if (bytes.size() > most_bytes)
      throw UsageError("cannot read '" + path + "': it has more than the " + std::to_string(most_bytes) + " bytes it may have");
  }
  if (std::ferror(file.get())) throw UsageError("cannot read '" + path + "': " + std::strerror(errno));
  return bytes;
}

std::string_view text_of(std::span<const uint8_t> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

}  // namespace pipecast
