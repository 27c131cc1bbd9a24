// PipeDream-2BW (Narayanan et al., ICML 2021): 1F1B over micro-batches without a flush, with two versions of the weights. All passes of
// mini-batch b read the version max(0, b - 1), on every stage: W(b+1) = W(b) - rate * direction(gradient at W(b-1)), a delay
// of one update everywhere. A stage can start mini-batch b + 1 before its update b is done only while at least as many micro-batches as
// there are stages lie between, hence the condition on their number.
#include <algorithm>

#include "engine/error.h"
#include "pipeline/program.h"

namespace pipecast {

Program pipedream_2bw_program(const Setting& setting, int stage) {
  if (setting.micro_batches < setting.stages)
    throw UsageError("pipedream-2bw needs at least as many micro-batches as stages: give --micro-batches " +
                     std::to_string(setting.stages) + " or more for " + std::to_string(setting.stages) + " stages, not " +
                     std::to_string(setting.micro_batches));
  return with_weights(one_forward_one_backward(setting, stage), [](const Reader& reader) {
    return Wanted{.version = std::max<int64_t>(0, reader.pass.minibatch - 1)};
  });
}

}  // namespace pipecast
