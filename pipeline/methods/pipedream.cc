// PipeDream (Narayanan et al., SOSP 2019): 1F1B with weight stashing. The backward of a mini-batch reads the very weights that its
// forward read on this stage, so a stage keeps every version that a mini-batch under way has read: D - k of them on stage k
// of D, the latest among them. The stash is empty whenever the pipeline refills.
//
// With vertical sync (section 3.3 there) all stages use the version that the first one read: the mini-batch sees one and the
// same number of updates everywhere, and a stage keeps what is under way anywhere.
#include <algorithm>
#include <map>

#include "pipeline/program.h"

namespace pipecast {

Program pipedream_program(const Setting& setting, int stage) {
  std::map<Tag, int64_t> read;  // by the forwards
  return with_weights(one_forward_one_backward(setting, stage), [&](const Reader& reader) {
    return Wanted{.version = read.insert({reader.pass.tag(), reader.live}).first->second};
  });
}

Program pipedream_vertical_program(const Setting& setting, int stage) {
  std::map<Tag, int64_t> read_by_first;
  int64_t updates = 0;
  for (const Instruction& i : one_forward_one_backward(setting, 0)) {
    if (i.operation == Operation::forward) read_by_first[i.tag()] = updates;
    if (is_step(i.operation)) ++updates;
  }
  return with_weights(one_forward_one_backward(setting, stage),
                      [&](const Reader& reader) { return Wanted{.version = read_by_first.at(reader.pass.tag())}; });
}

}  // namespace pipecast
