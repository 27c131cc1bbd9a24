#include "pipeline/plan/partition.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "engine/error.h"

namespace pipecast {
namespace {

std::string counted(size_t n, const std::string& thing) { return std::to_string(n) + " " + thing + (n == 1 ? "" : "s"); }

}  // namespace

void check_stages(size_t parts, int stages) {
  if (stages < 1) throw UsageError("a pipeline of " + std::to_string(stages) + " stages: use 1 or more");
  if (size_t(stages) > parts)
    throw UsageError("the model has " + counted(parts, "part") + " and cannot be cut into " + std::to_string(stages) +
                     " stages: use at most " + std::to_string(parts));
}

// slowest[s][i]: the time of the slowest stage when the parts from i on are split over s stages as well as can be,
//   slowest[1][i] = cost(i, n),  slowest[s][i] = min over j > i of max(cost(i, j), slowest[s - 1][j]).
std::vector<int> partition(const std::vector<double>& cost_per_part, int stages) {
  const size_t n = cost_per_part.size();
  check_stages(n, stages);
  for (size_t i = 0; i < n; ++i)
    if (!std::isfinite(cost_per_part[i]) || cost_per_part[i] < 0)
      throw UsageError("the cost of part " + std::to_string(i) + " is " + std::to_string(cost_per_part[i]) +
                       ": costs are finite and not negative");

  const double never = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> slowest(size_t(stages) + 1, std::vector<double>(n + 1, never));
  slowest[0][n] = 0;
  for (size_t s = 1; s <= size_t(stages); ++s)
    for (size_t i = 0; i < n; ++i) {
      double first_stage = 0;
      for (size_t j = i + 1; j <= n; ++j) {
        first_stage += cost_per_part[j - 1];
        slowest[s][i] = std::min(slowest[s][i], std::max(first_stage, slowest[s - 1][j]));
      }
    }

  // The first of the equal ones: each stage in turn takes as few parts as the best time allows.
  const double best = slowest[size_t(stages)][0];
  std::vector<int> counts;
  size_t begin = 0;
  for (size_t left = size_t(stages); left-- > 0;) {
    size_t end = begin + 1;
    while (slowest[left][end] > best) ++end;
    counts.push_back(int(end - begin));
    begin = end;
  }
  return counts;
}

std::vector<int> parse_partition(const std::string& text, int parts, int pieces) {
  std::vector<int> counts;
  const char *at = text.data(), *end = at + text.size();
  bool good = true;
  while (good) {
    int count = 0;
    const auto [after, error] = std::from_chars(at, end, count);
    good = error == std::errc() && count >= 1 && (after == end || *after == ',');
    counts.push_back(count);
    if (after == end) break;
    at = after + 1;
  }
  if (!good)
    throw UsageError("partition '" + shown(text) + "' is not a list of positive numbers: write how many parts each stage gets, as in '3,3,3,2'");

  int64_t sum = 0;
  for (int count : counts) sum += count;
  std::string wrong;
  if (counts.size() != size_t(pieces)) wrong = "has " + counted(counts.size(), "number") + ", not " + std::to_string(pieces);
  if (sum != parts)
    wrong += (wrong.empty() ? "adds up to " : " and adds up to ") + std::to_string(sum) + " parts, not " + std::to_string(parts);
  if (!wrong.empty())
    throw UsageError("partition '" + shown(text) + "' " + wrong + ": give one for each stage (for each of its chunks) that together make the " +
                     "model's " + std::to_string(parts) + " parts");
  return counts;
}

}  // namespace pipecast
