#pragma once
// The median: of an odd number of values the middle one, else the mean of the two in the middle; 0 where there are none.
#include <algorithm>
#include <vector>

namespace pipecast {

inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

}  // namespace pipecast
