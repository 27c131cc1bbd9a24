#pragma once
// This same program as a child process.
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace pipecast {

// Starts `pipecast ARGUMENTS...` with its output and its errors in the file `log`. It is ended when this process ends.
pid_t start_child(const std::vector<std::string>& arguments, const std::string& log);
// Of a child that has ended its exit code, or 128 + the signal that ended it; nothing while it runs. Asked once more, it fails.
std::optional<int> exit_code(pid_t child);

}  // namespace pipecast
