#pragma once
// The median and the 10th and 90th percentile of repeated measurements.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/median.h"

namespace pipecast {

// As many values lie below `tenth` as above `ninetieth`: a tenth, rounded down. With fewer than ten values they are the least and the
// greatest.
struct Spread {
  double median = 0, tenth = 0, ninetieth = 0;

  // At least one value.
  explicit Spread(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    median = pipecast::median(values);
    tenth = values[n / 10];
    ninetieth = values[n - 1 - n / 10];
  }
  nlohmann::ordered_json json() const { return {{"median", median}, {"tenth", tenth}, {"ninetieth", ninetieth}}; }
};

}  // namespace pipecast
