#pragma once
// JSON from a file that may hold anything. In every sentence `what` stands for the text or the value: "'FILE' is no ...: the header".
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace pipecast {

// Throws UsageError for what is no JSON, for a name that an object has twice, and for brackets nested deep enough to exhaust a stack.
nlohmann::json parse_json(const char* text, size_t size, const std::string& what);

// A whole number from 0 that fits; throws UsageError for any other value.
int64_t size_of_json(const nlohmann::json& value, const std::string& what);

}  // namespace pipecast
