#include "engine/error.h"

#include <algorithm>

#include "engine/utf8.h"

namespace pipecast {

namespace {

// The least number of slips from a to b: a letter left out, added or changed, or two neighbours exchanged.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
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
    if (name.size() < 2 * candidate.size()) {  // else the distance is the candidate's length or more
      size_t distance = edit_distance(name, candidate);
      if (distance < least && distance < candidate.size()) nearest = &candidate, least = distance;
    }
    list += (list.empty() ? "" : ", ") + candidate;
  }
  std::string text = "unknown " + std::string(kind) + " '" + shown(name) + "'; ";
  if (nearest) text += "did you mean '" + *nearest + "'? ";
  return text + "Known: " + list;
}

std::string printable(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const size_t size = utf8_character(text);
    const bool control = size == 1 && (text[0] < ' ' || text[0] == '\x7F');
    const bool second_control = size == 2 && text[0] == '\xC2' && static_cast<unsigned char>(text[1]) < 0xA0;
    line += size == 0 || control || second_control ? "?" : text.substr(0, size);
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  return line;
}

std::string shown(std::string_view text) {
  constexpr size_t most = 80;
  size_t end = 0;
  while (end < text.size() && end < most) end += std::max<size_t>(utf8_character(text.substr(end)), 1);
  return printable(text.substr(0, end)) + (end < text.size() ? "..." : "");
}

}  // namespace pipecast
