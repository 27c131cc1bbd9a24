#pragma once
// What crosses the borders of a piece of a model: the one place where that is worked out.
#include <vector>

#include "models/graph.h"

namespace pipecast {

// Of the nodes [first, last) of a graph, in ascending order of the values.
struct Borders {
  std::vector<int> fed;      // inputs of the model that a node here reads: they come from the data set, wherever the piece lies
  std::vector<int> inputs;   // values that are made before and read here or after
  std::vector<int> outputs;  // values that are made before the end and read after it, and the model's output
};
Borders borders(const Graph&, int first, int last);

}  // namespace pipecast
