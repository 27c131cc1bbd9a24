#pragma once
// One stage of the pipeline: its section of the model, its weights, its optimizer's state, and the interpreter of its program.
// It knows instructions, not methods.
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/loader.h"
#include "engine/parameters.h"
#include "optim/schedule.h"
#include "pipeline/meter.h"
#include "pipeline/program.h"
#include "pipeline/section.h"
#include "pipeline/transport/link.h"

namespace pipecast {

struct StageOptions {
  Device device;
  int index = 0, count = 1;           // which stage of how many
  int first_node = 0, last_node = 0;  // its nodes of the graph
  std::vector<int64_t> batches;       // sizes of the passes it will see
  int micro_batches = 1;
  int frames = 1;         // passes in flight
  bool predicts = false;  // the store holds a second copy
  int stash_slots = 0;    // copies of the weights beside the store's
  LookAheadMode look_ahead = LookAheadMode::paper;
  const Optimizer* optimizer = nullptr;
  Schedule schedule;
  float label_smoothing = 0;
  uint64_t seed = 0;
};

// What a stage reports of its training since the last report.
struct StageReport {
  double busy_seconds = 0;  // spent computing, not waiting
  PredictionError prediction;
};

// Of the program's passes so far; only the last stage has any.
struct LossTotals {
  double loss = 0, hits = 0;  // sums over the samples
};

// Where one run of programs takes its samples from.
struct Feed {
  bool training = true;
  int64_t first_minibatch = 0;                          // what mini-batch 0 of the program is, counted over the whole training
  int64_t updates_per_epoch = 1;                        // for the learning-rate schedule
  Batches* batches = nullptr;                           // sizes and labels; each stage has its own
  Loader* loader = nullptr;                             // images, for the first stage
  std::function<void(int64_t minibatch)> on_minibatch;  // last stage, after the loss of a mini-batch is known
  std::function<void(const Tensor&)> on_logits;         // last stage, evaluation: logits on the host
};

class Stage {
 public:
  Stage(const Graph&, const StageOptions&);

  // Messages to and from the neighbours; null at the ends.
  Link *activations_in = nullptr, *activations_out = nullptr, *gradients_in = nullptr, *gradients_out = nullptr;

  void begin(const Program&, Feed);
  bool done() const { return position_ == program_->size(); }
  // Whether the next instruction would go on without waiting for another stage.
  bool ready() const;
  // Carries out the next instruction, with those that belong to it.
  void advance();

  const Section& section() const { return section_; }
  const ParameterStore& store() const { return store_; }
  float* statistics() const { return statistics_.data(); }
  int64_t updates() const { return updates_; }
  int frames() const { return options_.frames; }
  int copies() const { return store_.copies() + options_.stash_slots; }  // of the weights
  StageReport report();
  LossTotals totals();  // waits for the device
  // Floats of memory: weights (both copies), stash, gradient, optimizer state and workspace, frames, arena.
  struct MemoryUse {
    int64_t weights, stash, gradient, state, frames, arena;
  };
  MemoryUse memory() const;

 private:
  struct InFlight {
    bool used = false;
    Tag tag;
    bool measured = false;  // its forward read predicted weights that the meter knows
  };

  int64_t batch_size(const Instruction&) const;
  int frame_of(const Instruction&);
  int take_frame(const Instruction&);
  uint64_t step_key(const Instruction&) const;
  LookAhead look_ahead(int ahead);

  template <class Place>
  std::span<const Tensor> gradients(const std::vector<int>& values, const Place&);

  void receive_activation(const Instruction&);
  void forward(const Instruction&);
  void send_activation(const Instruction&);
  void backward(const Instruction&);
  void step();
  const Binding& weights(const Instruction&) const;

  StageOptions options_;
  Section section_;
  ParameterStore store_;
  Memory stash_, statistics_, state_, loss_;  // loss_: totals (16 floats), then loss and hit per row
  Memory scratch_;                            // the optimizer's workspace
  Memory labels_;                             // int32, per frame
  Binding latest_, other_, gradient_, statistic_bindings_;
  std::vector<Binding> stashed_;  // by slot
  std::vector<Matrix> matrices_;
  Buffers buffers_;
  std::optional<PredictionMeter> meter_;
  std::vector<InFlight> frames_;
  std::vector<int32_t> host_labels_;
  std::vector<float> rates_, host_logits_;
  std::vector<Tensor> message_;
  std::span<const float> images_;  // of the mini-batch that is being fed
  int64_t label_minibatch_ = -1;

  const Program* program_ = nullptr;
  size_t position_ = 0;
  Feed feed_;
  int64_t updates_ = 0;
  bool gradient_is_used_ = true;  // the next backward begins a new sum
  std::chrono::duration<double> busy_{};
};

}  // namespace pipecast
