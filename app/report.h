#pragma once
// report.html: a run on one page, with nothing outside it.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace pipecast {

// `metrics`: the lines of metrics.jsonl.
std::string report_html(const std::string& title, const std::string& configuration, const std::vector<nlohmann::ordered_json>& metrics);

}  // namespace pipecast
