#include "app/config_file.h"

#include <map>
#include <sstream>

#include "engine/files/durable_file.h"
#include "engine/error.h"
#include "engine/utf8.h"

namespace pipecast {
namespace {

constexpr const char* blanks = " \t\r";
constexpr uint64_t most_bytes = 1 << 20;

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(blanks);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

// `text` begins after the equals sign.
std::string parse_value(const std::string& text, const std::string& place) {
  std::string value, rest;
  if (text.empty() || text[0] != '"') {
    value = trimmed(text.substr(0, text.find('#')));
    if (value.empty()) throw UsageError(place + ": there is no value after '='; write name = value");
    if (value[0] == '[' || value[0] == '\'') throw UsageError(place + ": lists and texts stand in double quotes, as in \"10,20\"");
    return value;
  }
  size_t i = 1;
  for (; i < text.size() && text[i] != '"'; ++i) {
    if (text[i] == '\\' && ++i < text.size() && text[i] != '"' && text[i] != '\\')
      throw UsageError(place + ": '\\" + shown(text.substr(i, 1)) + "' is not known; a text may hold \\\" and \\\\");
    if (i < text.size()) value += text[i];
  }
  if (i >= text.size()) throw UsageError(place + ": the text has no closing quote");
  rest = trimmed(text.substr(i + 1));
  if (!rest.empty() && rest[0] != '#') throw UsageError(place + ": '" + shown(rest) + "' after the value is not understood");
  return value;
}

}  // namespace

std::vector<ConfigLine> read_config(const std::string& path) {
  return parse_config(std::string(text_of(read_file_or_pipe(path, most_bytes))), path);
}

std::vector<ConfigLine> parse_config(const std::string& text, const std::string& path) {
  std::vector<ConfigLine> lines;
  std::map<std::string, std::string> places;  // by name
  std::istringstream stream(std::string(without_byte_order_mark(text)));
  std::string next;
  for (int number = 1; std::getline(stream, next); ++number) {
    const std::string place = path + ":" + std::to_string(number), line = trimmed(next);
    if (line.empty() || line[0] == '#') continue;
    const size_t equals = line.find('=');
    const std::string name = trimmed(line.substr(0, equals));
    if (equals == std::string::npos || name.empty())
      throw UsageError(place + ": '" + shown(line) + "' is not understood; write name = value, the options' names without the dashes");
    const auto [before, is_new] = places.emplace(name, place);
    if (!is_new) throw UsageError(place + ": '" + shown(name) + "' is already given at " + before->second + "; give it once");
    lines.push_back({name, parse_value(trimmed(line.substr(equals + 1)), place), place});
  }
  return lines;
}

std::string config_line(const std::string& name, const std::string& value, bool is_text) {
  if (!is_text) return name + " = " + value + "\n";
  std::string quoted;
  for (char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return name + " = \"" + quoted + "\"\n";
}

}  // namespace pipecast
