#pragma once
// Whole files, so that no file is ever half-written: a crash, a full disk or a loss of power leaves what was there or what is to be there.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pipecast {

using Pieces = std::vector<std::span<const uint8_t>>;  // a file's bytes, in their order

Pieces pieces_of(std::string_view text);

// Under a temporary name (PATH.tmp), synced, renamed to PATH, the folder synced: on the disk when it returns. A file that was there keeps
// its permissions, a symbolic link to one still leads to it. To a device or a pipe the bytes go straight. Throws Error naming the path or
// its folder; PATH is then as it was (or new, where all but the folder's sync was done) and the temporary file is gone.
void write_durably(const std::string& path, const Pieces&);

// The parts of it, for several files that are to appear together. All throw Error naming the path.
void write_synced(const std::string& path, const Pieces&);            // the bytes are on the disk; the name is once its folder is synced
void sync_folder(const std::string& path);                            // so are the names in it
void rename_durably(const std::string& from, const std::string& to);  // within a folder, which is synced
void make_folder_durably(const std::string& path);                    // and those above it; none that is there is touched

// All of a file. Throws UsageError naming it: not there, no file, more than `most_bytes` (nothing is read then), more than memory holds.
std::vector<uint8_t> read_file(const std::string& path, uint64_t most_bytes = uint64_t(1) << 36);
// The first bytes, at most so many; `size` is how many the file has.
std::vector<uint8_t> read_beginning(const std::string& path, uint64_t most_bytes, uint64_t& size);
// The same as read_file of what a user names, which may be a pipe: it is read to its end, whatever its writer takes for it.
std::vector<uint8_t> read_file_or_pipe(const std::string& path, uint64_t most_bytes);
std::string_view text_of(std::span<const uint8_t> bytes);

}  // namespace pipecast
