#include "app/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "engine/error.h"

namespace pipecast {

pid_t start_child(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv{const_cast<char*>("pipecast")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const int output = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (output < 0) throw Error("file '" + log + "' cannot be written: " + std::strerror(errno));
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    // Between fork and exec only calls that are safe in a signal handler: this process has other threads, the copy has not.
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // training takes SIGTERM for a wish
    if (getppid() == parent) execv("/proc/self/exe", argv.data());
    _exit(127);
  }
  const int failure = errno;
  close(output);
  if (child < 0) throw Error(std::string("no process can be started: ") + std::strerror(failure));
  return child;
}

std::optional<int> exit_code(pid_t child) {
  int status = 0;
  const pid_t ended = waitpid(child, &status, WNOHANG);
  if (ended < 0) throw Error(std::string("a process cannot be waited for: ") + std::strerror(errno));
  if (ended == 0) return std::nullopt;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace pipecast
