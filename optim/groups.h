#pragma once
// Groups of parameters that are updated in ways of their own: frozen, at another learning rate, or without weight decay (the param_groups
// of torch.optim). What is updated alike and lies together in the flat buffers is one range, and takes one kernel launch: kernels know no
// groups.
#include <string>
#include <vector>

#include "optim/optimizer.h"

namespace pipecast {

// A parameter, a layer or a block is named by its full name or the beginning of it up to a dot: "layer1" stands for
// "layer1.0.conv1.weight", not for "layer10.weight".
struct GroupOptions {
  std::vector<std::string> frozen = {};  // neither updated nor decayed; left out of the gradient's norm
  std::vector<std::string> head = {};    // head_rate times the learning rate
  float head_rate = 1;
  bool decays_vectors = true;  // false: no weight decay for parameters of one dimension, which are norms' and biases
};

// Floats [begin, begin + n) of the flat buffers, with the padding behind each parameter.
struct Range {
  int64_t begin = 0, n = 0;
  bool frozen = false;
  float rate = 1, decay = 1;          // factors of the learning rate and of the weight decay
  std::vector<Matrix> matrices = {};  // in it; offsets count from `begin`
};

// The whole buffer in as few ranges as possible, one after another.
std::vector<Range> ranges(const Segments&, const GroupOptions&);
// The range's part of the buffers.
Buffers part_of(const Buffers&, const Range&);
// Whether `name` is one of these, or in a block or layer that is.
bool is_named(const std::string& name, const std::vector<std::string>& names);
// Throws UsageError for names that no parameter has, for a factor that is not above 0, and where nothing is left to train. `all`: the
// parameters of the whole model.
void check_groups(const Segments& all, const GroupOptions&);

}  // namespace pipecast
