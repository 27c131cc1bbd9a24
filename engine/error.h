#pragma once
// Errors are one sentence that names the thing, what is wrong with it and what to do.
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace pipecast {

// The run failed: the command ends with exit code 1.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The caller's input is wrong (an argument, a data file, a weights file): exit code 2.
struct UsageError : Error {
  using Error::Error;
};

// Mistakes in independent things, reported together, one a line.
class Mistakes {
 public:
  void add(const std::string& sentence) { text_ += (text_.empty() ? "" : "\n") + sentence; }
  template <class F>
  void check(F f) {
    try {
      f();
    } catch (const UsageError& error) {
      add(error.what());
    }
  }
  void report() const {
    if (!text_.empty()) throw UsageError(text_);
  }

 private:
  std::string text_;
};

// Throws Error for a library call that failed, with the place it was made at.
[[noreturn]] void fail(const char* library, const char* why, std::source_location where);

// "unknown model 'resnet2'; did you mean 'resnet20'? Known: ..." for a UsageError.
std::string unknown_name(std::string_view kind, std::string_view name, const std::vector<std::string>& known);

// One line that a terminal can show: UTF-8; ? for what is not, and for control characters.
std::string printable(std::string_view text);
// The same of a file that may hold anything, cut to what a sentence has room for.
std::string shown(std::string_view text);

}  // namespace pipecast
