#include "app/process.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "engine/error.h"

namespace pipecast {

// proc(5): field 22 of /proc/self/stat is the start in clock ticks since the machine's; field 2 is a name in parentheses, which may hold
// blanks.
double seconds_since_start() {
  std::ifstream file("/proc/self/stat");
  std::string text;
  std::getline(file, text);
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  for (int field = 3; field < 22; ++field) fields >> text;
  double ticks = 0;
  timespec now{};
  if (!(fields >> ticks) || clock_gettime(CLOCK_BOOTTIME, &now) != 0) throw Error("/proc/self/stat does not say when this process began");
  return double(now.tv_sec) + double(now.tv_nsec) * 1e-9 - ticks / double(sysconf(_SC_CLK_TCK));
}

// Not getrusage(): its maximum begins with that of the process which started this one.
int64_t peak_resident_bytes() {
  std::ifstream file("/proc/self/status");
  int64_t kibibytes = 0;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmHWM:") && std::istringstream(line.substr(6)) >> kibibytes) return kibibytes * 1024;
  throw Error("/proc/self/status does not say how much memory this process took");
}

}  // namespace pipecast
