#pragma once
// Which parts of a model go to which stage.
#include <string>
#include <vector>

namespace pipecast {

// Throws UsageError where there is no stage, or more stages than parts.
void check_stages(size_t parts, int stages);

// The contiguous split of parts into stages whose slowest stage is as fast as can be (dynamic programming, exact); among equal
// ones the first: the fewest parts in stage 0, then in stage 1, and so on. Returns the number of parts per stage, none of them 0.
// Throws UsageError where there are more stages than parts.
std::vector<int> partition(const std::vector<double>& cost_per_part, int stages);

// "3,3,3,2": the number of parts of each piece. Throws UsageError where they do not add up to `parts` or are not `pieces` many.
std::vector<int> parse_partition(const std::string& text, int parts, int pieces);

}  // namespace pipecast
