#pragma once
// Config files: lines of `name = value` and comments, a subset of TOML. A text value stands in double quotes.
#include <string>
#include <vector>

namespace pipecast {

struct ConfigLine {
  std::string name, value;
  std::string place;  // "file:line", for messages
};
// Throws UsageError naming the file and the line that is wrong.
std::vector<ConfigLine> read_config(const std::string& path);
std::vector<ConfigLine> parse_config(const std::string& text, const std::string& path);  // the same over memory
std::string config_line(const std::string& name, const std::string& value, bool is_text);

}  // namespace pipecast
