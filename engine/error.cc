#include "engine/error.h"

#include <algorithm>
#include <numeric>

namespace pipecast {

namespace {

// Levenshtein: the least number of letters to insert, delete or change.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t(0));
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t changed = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row[b.size()];
}

}  // namespace

void fail(const char* library, const char* why, std::source_location where) {
  throw Error(std::string(where.file_name()) + ":" + std::to_string(where.line()) + " " + where.function_name() + ": " + library + ": " +
              why);
}

std::string unknown_name(std::string_view kind, std::string_view name, const std::vector<std::string>& known) {
  const std::string* nearest = nullptr;
  size_t least = name.size() / 3 + 2;  // about a third of the letters wrong is still a slip; more is another name
  std::string list;
  for (const std::string& candidate : known) {
    size_t distance = edit_distance(name, candidate);
    if (distance < least && distance < candidate.size()) nearest = &candidate, least = distance;
    list += (list.empty() ? "" : ", ") + candidate;
  }
  std::string text = "unknown " + std::string(kind) + " '" + std::string(name) + "'; ";
  if (nearest) text += "did you mean '" + *nearest + "'? ";
  return text + "Known: " + list;
}

}  // namespace pipecast
