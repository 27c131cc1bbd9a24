#pragma once
// One line on a terminal, rewritten at most ten times a second. Where no terminal is, nothing is written.
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <string>

namespace pipecast {

class Progress {
 public:
  bool due() const { return terminal_ && Clock::now() >= next_; }
  void show(const std::string& line) {
    std::cerr << "\r\033[K" << line << std::flush;
    next_ = Clock::now() + std::chrono::milliseconds(100);
    shown_ = true;
  }
  void clear() {
    if (shown_) std::cerr << "\r\033[K" << std::flush;
    shown_ = false;
  }
  ~Progress() { clear(); }

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_ = isatty(STDERR_FILENO), shown_ = false;
  Clock::time_point next_ = Clock::now();
};

}  // namespace pipecast
