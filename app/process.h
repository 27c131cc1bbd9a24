#pragma once
// What the operating system says of this process (Linux).
#include <cstdint>

namespace pipecast {

double seconds_since_start();   // since the program was started, in steps of the system's clock tick (10 ms)
int64_t peak_resident_bytes();  // the most that lay in memory at once so far: code, libraries and all

}  // namespace pipecast
