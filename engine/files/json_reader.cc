#include "engine/files/json_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <vector>

#include "engine/error.h"

namespace pipecast {

using nlohmann::json;

namespace {

constexpr int depth_limit = 8;  // the files that are read this way need three

// Before the parser sees it: brackets nested deep enough would exhaust the stack of a walk over the result.
void check_depth(const char* text, size_t size, const std::string& what) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < size; ++i) {
    const char c = text[i];
    if (quoted && c == '\\') ++i;
    else if (c == '"') quoted = !quoted;
    else if (!quoted && (c == '{' || c == '[') && ++depth > depth_limit)
      throw UsageError(what + " nests more than " + std::to_string(depth_limit) + " levels");
    else if (!quoted && (c == '}' || c == ']')) --depth;
  }
}

}  // namespace

json parse_json(const char* text, size_t size, const std::string& what) {
  check_depth(text, size, what);
  std::vector<std::set<std::string>> open_objects;
  auto refuse_duplicates = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) open_objects.pop_back();
    if (event == json::parse_event_t::key && !open_objects.back().insert(value.get<std::string>()).second)
      throw UsageError(what + " has the name '" + shown(value.get<std::string>()) + "' twice");
    return true;
  };
  try {
    return json::parse(text, text + size, refuse_duplicates);
  } catch (const json::exception& error) {
    const std::string_view defect = error.what();  // after the library's name and number
    throw UsageError(what + " is not JSON: " + shown(defect.substr(std::min(defect.size(), defect.find("] ") + 2))));
  }
}

int64_t size_of_json(const json& value, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t(INT64_MAX))
    throw UsageError(what + " is not a size: " + shown(value.dump()));
  return int64_t(value.get<uint64_t>());
}

}  // namespace pipecast
