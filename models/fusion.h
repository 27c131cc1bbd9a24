#pragma once
// Which values of a model need not be written, because the only layer that reads them can compute them while it reads.
#include <vector>

#include "models/graph.h"

namespace pipecast {

// For each node of [first, last): the node whose output it computes from that node's input while it reads (Layer::normalises,
// Layer::takes_normalised), or -1. outputs: values that other nodes read, and that must be written. The layers must be prepared.
std::vector<int> makers_of_unwritten_inputs(const Graph&, int first, int last, const std::vector<int>& outputs);

}  // namespace pipecast
