// SpecTrain (Chen et al., arXiv 1809.02839), in the two versions of its authors' later code base.
//
// v1: both passes of a mini-batch read weights predicted for the moment when it completes its round trip on the first stage, on
// stage k of D: s = floor(k / 2) + D - 1 - k for the forward, s = floor(k / 2) for the backward.
//
// v2: the forward reads weights predicted D - 1 - k updates ahead, and the backward reads those same predicted weights again, so
// they are stashed. The published code of v2 (`--lookahead released`) does something else: it stashes as PipeDream does, predicts nothing,
// and multiplies the learning rate of stage k by D - k.
#include <map>

#include "pipeline/program.h"

namespace pipecast {

Program pipedream_program(const Setting&, int stage);

Program spectrain_v1_program(const Setting& setting, int stage) {
  const bool exact = setting.look_ahead == LookAheadMode::exact || setting.look_ahead == LookAheadMode::decayed;
  return with_weights(one_forward_one_backward(setting, stage), [&](const Reader& reader) {
    const int lag = exact ? reader.lag : setting.stages - 1 - stage;
    return Wanted{.version = reader.live, .ahead = stage / 2 + (reader.forward() ? lag : 0)};
  });
}

Program spectrain_v2_program(const Setting& setting, int stage) {
  if (setting.look_ahead == LookAheadMode::released) {
    Program program = pipedream_program(setting, stage);
    for (Instruction& i : program)
      if (is_step(i.operation)) i.scale = float(setting.stages - stage);
    return program;
  }
  const bool paper = setting.look_ahead == LookAheadMode::paper;
  std::map<Tag, Wanted> read;  // by the forwards
  return with_weights(one_forward_one_backward(setting, stage), [&](const Reader& reader) {
    const Wanted predicted{.version = reader.live, .ahead = paper ? setting.stages - 1 - stage : reader.lag};
    return read.insert({reader.pass.tag(), predicted}).first->second;
  });
}

}  // namespace pipecast
