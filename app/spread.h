#pragma once
// Repeated measurements in three figures.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

namespace pipecast {

// A tenth of the values lies below `tenth`, a tenth above `ninetieth`: of fewer than ten values the least and the greatest.
struct Spread {
  double median = 0, tenth = 0, ninetieth = 0;

  explicit Spread(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    median = values[values.size() / 2], tenth = values[values.size() / 10], ninetieth = values[values.size() * 9 / 10];
  }
  nlohmann::ordered_json json() const { return {{"median", median}, {"tenth", tenth}, {"ninetieth", ninetieth}}; }
};

}  // namespace pipecast
