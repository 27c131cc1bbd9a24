// XPipe (Guan et al., arXiv 1911.04610): 1F1B over T micro-batches. The first micro-batch of a mini-batch, its bellwether, has
// the weights predicted, once for the forwards and once for the backwards of all T; the others read what was predicted for it, whatever
// has been updated since. On stage k of D
//
//   forward   s = round((T + D - k / 2 - 2) / T)
//   backward  s = round((T + floor(k / 2) - 1) / T); rounded down in the one public implementation (`--lookahead released`)
//
// with halves rounded up. A stage holds three copies: the latest, the one for forwards, the one for backwards.
#include <cmath>
#include <map>

#include "pipeline/program.h"

namespace pipecast {

Program xpipe_program(const Setting& setting, int stage) {
  const double micro_batches = setting.micro_batches;
  const int ahead_forward = int(std::floor((micro_batches + setting.stages - stage / 2.0 - 2) / micro_batches + 0.5));
  const double backward = (micro_batches + stage / 2 - 1) / micro_batches;
  const int ahead_backward = int(std::floor(setting.look_ahead == LookAheadMode::released ? backward : backward + 0.5));
  std::map<int64_t, Wanted> forwards, backwards;  // by mini-batch: what the bellwether read
  return with_weights(one_forward_one_backward(setting, stage), [&](const Reader& reader) {
    const Wanted predicted{.version = reader.live, .ahead = reader.forward() ? ahead_forward : ahead_backward};
    return (reader.forward() ? forwards : backwards).insert({reader.pass.minibatch, predicted}).first->second;
  });
}

}  // namespace pipecast
