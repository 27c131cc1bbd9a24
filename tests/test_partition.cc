#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/random.h"
#include "pipeline/plan/partition.h"

using namespace pipecast;

namespace {

double slowest(const std::vector<double>& cost, const std::vector<int>& counts) {
  double worst = 0;
  size_t next = 0;
  for (int count : counts) {
    double stage = 0;
    for (int i = 0; i < count; ++i) stage += cost[next++];
    worst = std::max(worst, stage);
  }
  return worst;
}

// All splits in ascending order of (parts of stage 0, of stage 1, ...).
void each_split(int parts, int stages, std::vector<int>& counts, const auto& f) {
  if (stages == 1) {
    counts.push_back(parts);
    f(counts);
    counts.pop_back();
    return;
  }
  for (int first = 1; first <= parts - (stages - 1); ++first) {
    counts.push_back(first);
    each_split(parts - first, stages - 1, counts, f);
    counts.pop_back();
  }
}

template <class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "(no error)";
}

bool contains(const std::string& text, const std::string& piece) { return text.find(piece) != std::string::npos; }

}  // namespace

TEST_CASE("partition: the first of the best splits, as trying all of them finds it") {
  int cases = 0;
  for (uint64_t trial = 0; trial < 600; ++trial) {
    const Random random{trial, purpose("partition"), 0};
    const int parts = 1 + int(random.below(0, 10));
    std::vector<double> cost;
    // Small whole numbers have many equal splits, zeros among them; the rest are as measured times are.
    for (int i = 0; i < parts; ++i) {
      const uint64_t element = uint64_t(i) + 1;
      cost.push_back(trial % 3 == 0   ? random.below(element, 3)
                     : trial % 3 == 1 ? random.below(element, 50)
                                      : double(random.uniform(element)) * 0.1);
    }
    for (int stages = 1; stages <= parts; ++stages, ++cases) {
      CAPTURE(trial);
      CAPTURE(stages);
      std::vector<int> best, counts;
      each_split(parts, stages, counts, [&](const std::vector<int>& split) {
        if (best.empty() || slowest(cost, split) < slowest(cost, best)) best = split;
      });
      CHECK(partition(cost, stages) == best);
    }
  }
  CHECK(cases > 2000);
}

TEST_CASE("partition: equal parts, and the ends of the range") {
  CHECK(partition(std::vector<double>(11, 0.1), 4) == std::vector<int>{2, 3, 3, 3});
  CHECK(partition({1, 1, 1, 9}, 2) == std::vector<int>{3, 1});
  CHECK(partition({3, 2, 1}, 1) == std::vector<int>{3});
  CHECK(partition({3, 2, 1}, 3) == std::vector<int>{1, 1, 1});
  CHECK(partition({0, 0, 0}, 2) == std::vector<int>{1, 2});
}

TEST_CASE("partition: what it refuses") {
  CHECK(contains(refusal([] { partition({1, 1, 1}, 4); }), "3 parts"));
  CHECK(contains(refusal([] { partition({1, 1, 1}, 4); }), "4 stages"));
  CHECK(contains(refusal([] { partition({1}, 2); }), "1 part and"));
  CHECK(contains(refusal([] { partition({1, 1}, 0); }), "use 1 or more"));
  CHECK(contains(refusal([] { partition({1, -1}, 1); }), "part 1"));
  CHECK(contains(refusal([] { partition({NAN, 1}, 1); }), "part 0"));
  CHECK(contains(refusal([] { partition({INFINITY, 1}, 1); }), "part 0"));
}

TEST_CASE("parse_partition") {
  CHECK(parse_partition("3,3,3,2", 11, 4) == std::vector<int>{3, 3, 3, 2});
  CHECK(parse_partition("5", 5, 1) == std::vector<int>{5});
  const std::string both = refusal([] { parse_partition("3,3,3", 11, 4); });
  CHECK(contains(both, "'3,3,3'"));
  CHECK(contains(both, "has 3 numbers, not 4 and adds up to 9 parts, not 11"));
  CHECK(contains(refusal([] { parse_partition("3,3,3,3", 11, 4); }), "adds up to 12 parts, not 11"));
  CHECK(contains(refusal([] { parse_partition("5,6", 11, 1); }), "has 2 numbers, not 1"));
  CHECK(contains(refusal([] { parse_partition("2147483647,2147483647", 11, 2); }), "adds up to 4294967294 parts"));
  for (const char* text : {"", ",", "3,", ",3", "3,,3", "3, 3", "3;3", "a", "3,b", "0,6", "-1,7", "+3,3", "3.0,3", "99999999999,1", "6 "}) {
    CAPTURE(text);
    CHECK(contains(refusal([&] { parse_partition(text, 6, 2); }), "not a list of positive numbers"));
  }
}
