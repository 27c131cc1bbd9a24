#pragma once
// The weights of a stage: their copies, the stash, the gradient, the optimizer's state and what it does, and all of it in a checkpoint.
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/files/safetensors.h"
#include "engine/parameters.h"
#include "pipeline/program.h"
#include "pipeline/run/section.h"
#include "pipeline/run/stage_options.h"

namespace pipecast {

// Numbers of the stage that a checkpoint keeps beside the weights' own.
struct StageCounters {
  int64_t skipped = 0;    // updates skipped since the last report
  double square_sum = 0;  // of the last gradient
};

class StageWeights {
 public:
  // sections: one per chunk of the stage.
  StageWeights(const StageOptions&, const std::vector<const Section*>& sections);

  const ParameterStore& store() const { return store_; }
  int64_t size() const { return buffers_.n; }                               // floats of one copy
  int copies() const { return store_.copies() + options_.stash_slots; }     // of the weights
  // A chunk's weights, gradient and statistics, laid out as its section's segments.
  float* latest(int chunk) const { return store_.latest() + chunks_[size_t(chunk)].parameters; }
  float* gradient(int chunk) const { return store_.gradient() + chunks_[size_t(chunk)].parameters; }
  float* statistics(int chunk) const { return statistics_.data() + chunks_[size_t(chunk)].statistics; }
  const Binding& gradient_binding(int chunk) const { return chunks_[size_t(chunk)].gradient; }
  const Binding& statistic_binding(int chunk) const { return chunks_[size_t(chunk)].statistic_binding; }
  // The copy of the weights that an instruction reads: its chunk's part of it, and the whole flat buffer.
  const Binding& read(const Instruction&) const;
  const float* flat(const Instruction&) const;
  // What evaluations read: a chunk's part of the moving average where there is one, else of the latest weights.
  const Binding& evaluated(int chunk) const;
  const float* evaluated_values(int chunk) const;

  int64_t updates() const { return updates_; }
  void begin(int64_t updates_per_epoch) { updates_per_epoch_ = updates_per_epoch; }  // for the learning-rate schedule
  // Before each backward: the first one after an update begins a new sum.
  void begin_gradient();
  void clear_gradient();
  void clear_frozen_gradient();  // once it is complete: frozen parameters have no part in its norm
  // One update; with `ahead`, the prediction too, in the same kernel. gradient_norm: compared with the norm to clip to.
  void step(float rate_scale, int late, double gradient_norm, std::optional<int> ahead);
  // An update that changes neither weights nor state, but is counted: versions, learning rates and look-aheads stay those of the program.
  void skip(float rate_scale);
  void predict(int ahead);
  void look_back(int updates);
  void stash(const Instruction&);

  // Floats of memory; see Stage::MemoryUse.
  int64_t stash_floats() const { return stash_.size(); }
  int64_t state_floats() const { return state_.size() + scratch_.size() + average_.size() + moving_average_.size(); }

  // See Stage::save and restore(). own: the stage that had this one's first parameter, for the counters.
  void save(SafeTensors&, const StageCounters&) const;
  StageCounters restore(const std::vector<SafeTensors>& stages, const SafeTensors& own);
  // Of the stages in a checkpoint, the one that had this stage's first parameter.
  const SafeTensors& own_checkpoint(const std::vector<SafeTensors>& stages) const;

 private:
  struct Chunk {
    int64_t parameters = 0, statistics = 0;  // where they begin in the stage's buffers, in floats
    Binding latest = {}, other = {}, moving_average = {}, gradient = {}, statistic_binding = {};
    std::vector<Binding> stashed = {};  // by slot
  };

  LookAhead look_ahead(int ahead, const Range&);
  template <class Visit>
  void each_range(const Visit& visit);
  void move_average();  // by the newest weights, after each update
  bool averages() const { return options_.moving_average > 0 && updates_ > 0; }
  bool keeps_gradient() const { return options_.optimizer->looks_at_gradient(options_.look_ahead); }
  // Call visit(tensor's name in a checkpoint, its shape, pointer): for the parameters in one flat buffer, and for everything that a
  // checkpoint keeps but the average, which another partition may lack.
  template <class Visit>
  void each_parameter(const std::string& kind, float* buffer, const Visit& visit) const;
  template <class Visit>
  void each_kept(const Visit& visit) const;

  StageOptions options_;
  Device device_;
  std::vector<Chunk> chunks_;
  ParameterStore store_;
  Segments statistic_segments_;
  Memory stash_, statistics_, state_, scratch_, average_;  // scratch_: the optimizer's; average_: see optim/history.h
  Memory moving_average_;                                  // see optim/moving_average.h
  std::vector<Range> ranges_;                              // of the flat buffers
  Buffers buffers_;
  std::vector<float> rates_;
  int64_t updates_per_epoch_ = 1;
  int64_t updates_ = 0, looked_back_ = 0;      // looked_back_: the updates when average_ was last brought up to date
  float rate_scale_ = 1, gradient_scale_ = 1;  // of the last update
  bool gradient_is_used_ = true;               // the next backward begins a new sum
};

// A tensor of a checkpoint from the stage that had it; null where none had.
const FileTensor* find_saved(std::span<const SafeTensors> stages, const std::string& name);
// The same, as it must be; throws UsageError where it is missing or has another type or shape.
const FileTensor& saved(std::span<const SafeTensors> stages, const std::string& name, const char* type, const std::vector<int64_t>& shape);

}  // namespace pipecast
