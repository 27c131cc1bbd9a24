#include <algorithm>

#include "engine/format.h"
#include "engine/registry.h"
#include "pipeline/limits.h"
#include "pipeline/program.h"

namespace pipecast {

// In the files of methods/.
Program gpipe_program(const Setting&, int stage);
Program interleaved_program(const Setting&, int stage);
Program model_parallel_program(const Setting&, int stage);
Program one_f_one_b_flush_program(const Setting&, int stage);
Program pipedream_program(const Setting&, int stage);
Program pipedream_2bw_program(const Setting&, int stage);
Program pipedream_vertical_program(const Setting&, int stage);
Program pipemare_program(const Setting&, int stage);
Program pipeoptim_program(const Setting&, int stage);
Program spectrain_v1_program(const Setting&, int stage);
Program spectrain_v2_program(const Setting&, int stage);
Program spike_compensation_program(const Setting&, int stage);
Program spike_compensation_prediction_program(const Setting&, int stage);
Program vanilla_program(const Setting&, int stage);
Program xpipe_program(const Setting&, int stage);
Program zero_bubble_program(const Setting&, int stage);

namespace {

Registry<Method>& registry() {
  static Registry<Method> table = registry_of<Method>("method", {
      {"pipeoptim", "1F1B; the forward reads weights predicted for its backward, the backward the latest", pipeoptim_program},
      {"vanilla", "1F1B; forward and backward read the latest weights", vanilla_program},
      {"pipedream", "1F1B with weight stashing; forward and backward of a mini-batch read the same weights", pipedream_program},
      {"pipedream-vertical", "pipedream with vertical sync: all stages read the version that the first one reads",
       pipedream_vertical_program},
      {"pipedream-2bw", "1F1B over micro-batches with two versions; every pass reads weights one update old", pipedream_2bw_program},
      {"spectrain-v1", "1F1B; both passes read weights predicted for the end of the mini-batch's round trip", spectrain_v1_program},
      {"spectrain-v2", "1F1B; both passes read the same predicted weights, which are stashed", spectrain_v2_program},
      {"xpipe", "1F1B over micro-batches; both passes read weights predicted by a mini-batch's first micro-batch", xpipe_program},
      {"pipemare", "1F1B; the backward reads an estimate of what the forward read, learning rates start low", pipemare_program},
      {"nadam-async", "pipedream with the optimizer nadam, beta1 = 0.99 unless --optimizer is given", pipedream_program, 1, "nadam", 0.99f},
      {"spike-compensation", "1F1B; the update makes up for the gradient's delay", spike_compensation_program},
      {"spike-compensation-lwp", "spike compensation with linear weight prediction for the forward", spike_compensation_prediction_program},
      {"gpipe", "synchronous; all micro-batches forward, then all backward, then one update", gpipe_program},
      {"1f1b-flush", "synchronous; the gradient of gpipe with fewer activations held", one_f_one_b_flush_program},
      {"interleaved", "synchronous; 1f1b-flush with several chunks of the model per stage", interleaved_program, 2},
      {"zero-bubble", "synchronous; 1f1b-flush with the weights' gradients put off to where the stage would wait", zero_bubble_program},
      {"model-parallel", "synchronous; one pass at a time, the other stages wait", model_parallel_program},
  });
  return table;
}

}  // namespace

void register_method(Method method) { registry().add(std::move(method)); }

const std::vector<Method>& methods() { return registry().entries(); }

const Method& find_method(const std::string& name) { return registry().find(name); }

void check_setting(const Setting& setting) {
  auto in_range = [](const char* what, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most)
      throw UsageError("the number of " + std::string(what) + " is " + std::to_string(value) + "; give at " +
                       (value < least ? "least " + std::to_string(least) : "most " + std::to_string(most)));
  };
  in_range("stages", setting.stages, 1, most_stages);
  in_range("mini-batches", setting.minibatches, 0, most_minibatches);
  in_range("micro-batches", setting.micro_batches, 1, most_micro_batches);
  in_range("chunks", setting.chunks, 0, most_chunks);
  const double passes = double(setting.stages) * double(setting.minibatches) * setting.micro_batches * std::max(1, setting.chunks);
  if (passes > double(most_passes))
    throw UsageError(format("%d stages with %d chunks, %lld mini-batches and %d micro-batches are too many together: give so few that their "
                            "product is at most %lld; in training, --checkpoint-every N makes it N mini-batches",
                            setting.stages, std::max(1, setting.chunks), (long long)(setting.minibatches), setting.micro_batches,
                            (long long)(most_passes)));
}

std::vector<Program> make_programs(const Method& method, const Setting& given) {
  Setting setting = given;
  if (setting.chunks >= 0) setting.chunks = chunks_of(method, setting.chunks);
  check_setting(setting);
  if (setting.chunks > 1 && method.chunks == 1)
    throw UsageError("method " + method.name + " takes one chunk of the model per stage, not " + std::to_string(setting.chunks) +
                     ": leave --chunks out, or use interleaved");

  // The synchronous beginning, then the method.
  Setting synchronous = setting;
  synchronous.minibatches = method.chunks > 1 ? 0 : std::clamp<int64_t>(setting.synchronous - setting.done, 0, setting.minibatches);
  setting.minibatches -= synchronous.minibatches, setting.done += synchronous.minibatches;
  std::vector<Program> programs;
  for (int stage = 0; stage < setting.stages; ++stage) {
    Program program = one_f_one_b_flush_program(synchronous, stage), rest = method.program(setting, stage);
    if (setting.lag_rates)
      for (const float divisor = float(std::max(1, staleness(rest))); Instruction& i : rest)
        if (is_step(i.operation)) i.scale /= divisor;
    append(program, rest, synchronous.minibatches);
    programs.push_back(with_recomputation(program, setting.recompute, setting.micro_batches));
  }
  return programs;
}

}  // namespace pipecast
