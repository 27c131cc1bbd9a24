#pragma once
// Which values of a model need not be written, because the one layer that reads them can make them as it goes.
#include <vector>

#include "models/graph.h"

namespace pipecast {

// For each node of [first, last): the node whose output it makes from that node's input as it reads it (Layer::normalises,
// Layer::takes_normalised), or -1. outputs: values that are read beyond these nodes, and so are written. The layers must be prepared.
std::vector<int> makers_of_unwritten_inputs(const Graph&, int first, int last, const std::vector<int>& outputs);

}  // namespace pipecast
