#pragma once
// The folder app/ is the `pipecast` command. It parses arguments, calls the other folders, which do the work, and prints the results.
//
// This file: commands and their options, from the command line or a config file. The command line takes precedence.
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/error.h"
#include "engine/format.h"

namespace pipecast {

// Of options that several commands have.
constexpr int most_threads = 1024;
constexpr uint64_t most_seed = std::numeric_limits<uint64_t>::max();
constexpr double most_seconds = 1e6;

// The options of one command. Each is bound to a variable, whose value is the default.
class Options {
 public:
  struct Entry {
    std::string name, placeholder, help, group;
    std::function<void(const std::string&)> set;  // throws UsageError
    std::function<std::string()> get;             // the value, as text that `set` accepts
    bool is_flag = false, is_text = false, is_positional = false, in_config = true;
    bool given = false;  // on the command line or in the config file
  };

  // Options added after this call are listed under this title in the help.
  void group(const std::string& title) { group_ = title; }
  void text(const std::string& name, std::string& value, const std::string& placeholder, const std::string& help);
  void flag(const std::string& name, bool& value, const std::string& help);
  // int, int64_t, uint64_t, float or double, from `least` to `most`. What is computed from numbers in their ranges must not overflow.
  template <class T>
  void number(const std::string& name, T& value, const std::string& placeholder, const std::string& help, std::type_identity_t<T> least,
              std::type_identity_t<T> most);
  // double or uint64_t: "0.1,0.2"
  template <class T>
  void numbers(const std::string& name, std::vector<T>& values, const std::string& placeholder, const std::string& help,
               std::type_identity_t<T> least, std::type_identity_t<T> most);
  // Leaves the last added option out of written_config(), because it does not describe the run (--out, --json).
  void not_in_config() { entries_.back().in_config = false; }

  // Makes the last added option a required positional argument. It is not in written_config().
  void positional() { entries_.back().is_positional = true, entries_.back().in_config = false; }

  bool given(const std::string& name) const { return entry(name).given; }
  // The options' values as the text of a config file.
  std::string written_config() const;
  Entry& entry(const std::string& name);
  const Entry& entry(const std::string& name) const { return const_cast<Options*>(this)->entry(name); }
  std::vector<Entry>& entries() { return entries_; }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  void add(Entry);

  std::string group_ = "Options";
  std::vector<Entry> entries_;
};

class Command {
 public:
  Command(std::string name, std::string summary, std::string examples)
      : name(std::move(name)), summary(std::move(summary)), examples(std::move(examples)) {}
  virtual ~Command() = default;
  virtual void declare(Options&) = 0;
  virtual void run(const Options&) = 0;

  const std::string name;  // one word, or two: "bench step" is a subcommand of "bench", which must come before it in the list
  const std::string summary, examples;
};

// Runs the command that the arguments ask for, or prints help. Throws UsageError for wrong arguments or a wrong config file.
void run_command_line(int count, char** arguments, const std::vector<std::unique_ptr<Command>>& commands);

// The error text for an unknown option of the command.
std::string unknown_option(const std::string& name, const std::vector<std::string>& known, const std::string& command);

// "a, b, c"; list_names: of the names of a table's rows.
std::string list(const std::vector<std::string>& names);
template <class Row>
std::string list_names(const std::vector<Row>& rows) {
  std::vector<std::string> names;
  for (const Row& row : rows) names.push_back(row.name);
  return list(names);
}

}  // namespace pipecast
