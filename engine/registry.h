#pragma once
// A table of things of one kind by name: those that ship, and those that a fork adds. Entries have a `name`.
#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "engine/error.h"

namespace pipecast {

// Not thread-safe: names are added before anything is made by them.
template <class Entry>
class Registry {
 public:
  // kind continues a sentence: "unknown model 'x'".
  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  // Throws UsageError for a name that is taken, or that a command line could not hold: letters, digits, '-', '_' and '.'.
  void add(Entry entry) {
    const auto fits = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; };
    if (entry.name.empty() || !std::all_of(entry.name.begin(), entry.name.end(), fits))
      throw UsageError("'" + shown(entry.name) + "' is no name for a " + kind_ + ": use letters, digits, '-', '_' and '.'");
    if (search(entry.name)) throw UsageError("there is a " + kind_ + " '" + entry.name + "' already: choose another name");
    entries_.push_back(std::move(entry));
  }
  // Throws UsageError with the nearest known name.
  const Entry& find(const std::string& name) const {
    if (const Entry* entry = search(name)) return *entry;
    throw UsageError(unknown_name(kind_, name, names()));
  }
  const Entry* search(const std::string& name) const {
    for (const Entry& entry : entries_)
      if (entry.name == name) return &entry;
    return nullptr;
  }
  const std::vector<Entry>& entries() const { return entries_; }  // in the order of add(); the next one makes references invalid
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const Entry& entry : entries_) names.push_back(entry.name);
    return names;
  }

 private:
  std::string kind_;
  std::vector<Entry> entries_;
};

// A registry with the entries that ship.
template <class Entry, size_t N>
Registry<Entry> registry_of(std::string kind, Entry (&&shipped)[N]) {
  Registry<Entry> registry(std::move(kind));
  for (Entry& entry : shipped) registry.add(std::move(entry));
  return registry;
}

}  // namespace pipecast
