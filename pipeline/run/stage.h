#pragma once
// One stage of the pipeline: the interpreter of its program. Its chunks have their sections of the model, frames and inputs; its weights and
// the observers are parts of their own. It knows instructions, not methods.
#include <array>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/graph_capture.h"
#include "pipeline/run/frames.h"
#include "pipeline/run/meter.h"
#include "pipeline/run/source.h"
#include "pipeline/run/stage_weights.h"
#include "pipeline/run/trace.h"
#include "pipeline/run/transport/transport.h"

namespace pipecast {

// What a stage reports of its training since the last report.
struct StageReport {
  double busy_seconds = 0;  // spent computing, not waiting
  PredictionError prediction;
  int64_t skipped_updates = 0;
};

// Of the program's passes so far, on the stage that has the loss: for each of Layer::means() the sum, and what it is taken over. Passes whose
// loss was not finite are in neither.
struct LossTotals {
  static constexpr size_t most = size_t(Section::loss_floats);
  std::array<double, most> sums = {}, counts = {};
};

// Where one run of programs takes its samples from.
struct Feed {
  bool training = true;
  int64_t first_minibatch = 0, end_minibatch = 0;       // what the program's mini-batches are, counted over the whole training
  int64_t updates_per_epoch = 1;                        // for the learning-rate schedule
  const Batches* batches = nullptr;                     // each stage takes a copy
  Track* track = nullptr;                               // each stage has its own, for what it does; null: nothing is recorded
  std::function<void(int64_t minibatch)> on_minibatch;  // stage with the loss: after that of a mini-batch is known
  std::function<void(const Tensor&)> on_prediction;     // stage with the loss, evaluation: what the loss is taken of, in fp32 on the host
};

class Stage {
 public:
  Stage(const Graph&, const StageOptions&);
  ~Stage();

  // Messages to and from the neighbours; null at the ends of the model.
  std::unique_ptr<Sender> activations_out, gradients_out;
  std::unique_ptr<Receiver> activations_in, gradients_in;

  // A program that the audit accepts: what is received is used at once and what is made is sent at once, as the arena holds one pass.
  void begin(const Program&, Feed);
  bool done() const { return position_ == program_->size(); }
  // Whether the next instruction would go on without waiting for another stage.
  bool ready();
  // Carries out the next instruction.
  void advance();

  // Of a chunk: its section, and the places of its weights and statistics, laid out as the section's segments are.
  const Section& section(int chunk = 0) const { return chunks_[size_t(chunk)]->section; }
  float* latest(int chunk) const { return weights_->latest(chunk); }
  float* statistics(int chunk) const { return weights_->statistics(chunk); }
  Device device() const { return options_.device; }
  const ParameterStore& store() const { return weights_->store(); }
  int64_t updates() const { return weights_->updates(); }
  int frames() const;
  int copies() const { return weights_->copies(); }  // of the weights
  // Of the gradient of the program's n-th update, from 1, before clipping; of 0 that of the last update before the program. Not finite
  // where that update was skipped, and before the first of all. Other threads may ask for updates that are known to be done.
  double square_sum(int64_t n) const { return square_sums_[size_t(n)]; }
  StageReport report();
  LossTotals totals();  // waits for the device
  // Floats of memory: weights (both copies), stash, gradient, optimizer state and workspace with what looking back takes, frames
  // with kept inputs, arena.
  struct MemoryUse {
    int64_t weights, stash, gradient, state, frames, arena;
  };
  MemoryUse memory() const;

  // All that the next run of a program reads of those before it; only between two runs. Tensors of float are as they lie in memory:
  //   weights/NAME, state-K/NAME (the optimizer's buffer K), gradient/NAME (where a look-ahead reads the last one), average/NAME (of
  //   looking back), for each parameter, and statistics/NAME
  //   counters (I64): updates, updates when it looked back last, updates left out, bits of the gradient's square sum
  //   factors: of the last update's learning rate and gradient; prediction: the meter's sums
  // The predicted copy and the stash are not among them: a program makes them before it reads them.
  SafeTensors save() const;
  // Into a stage that has not trained, from those of a whole trainer: each tensor from the stage that had it, what is the stage's own
  // from the one that had its first parameter. Throws UsageError where a tensor is missing or has another shape.
  void restore(const std::vector<SafeTensors>&);

 private:
  // What decides which kernels a pass of a section is, and on which memory they work.
  struct PassKey {
    Operation operation;
    bool training;
    int chunk, frame;
    const Binding* weights;
    PassShape shape;
    auto operator<=>(const PassKey&) const = default;
  };
  struct Chunk {
    Section section;
    Source source;
    Frames frames, kept;       // passes in flight, and those of which only the inputs are kept
    std::vector<bool> keep;    // by frame: beyond its forward
    int64_t input_floats = 0;  // of one pass
    Memory inputs = {};        // of the passes in `kept`
    std::vector<int> values = {};  // that those are: the fed ones and the inputs
    int64_t spoiled = -1;      // the last mini-batch with a forward that was not finite
  };
  struct Backward {
    Instruction pass;
    Half half = Half::both;
    int frame = 0;
  };

  Chunk& chunk(const Instruction& i) { return *chunks_[size_t(i.chunk)]; }
  const Chunk& chunk(const Instruction& i) const { return *chunks_[size_t(i.chunk)]; }
  bool has_loss(const Instruction& i) const { return chunk(i).section.means() > 0; }
  PassAt here(const Instruction& i) const { return {options_.index, i.tag()}; }
  PassShape shape(const Instruction&) const;
  int64_t first_sample(const Instruction&) const;  // of the pass within its mini-batch
  int frame_of(const Instruction& i) { return chunk(i).frames.find(i.tag()); }
  PassOptions pass_options(const Instruction&) const;
  std::span<const Tensor> values_of(const Instruction&, int frame, const std::vector<int>& values);
  std::span<const Tensor> gradients_of(const Instruction&, int frame, const std::vector<int>& values);

  void wait_for_others(const Instruction&);
  void receive_activation(const Instruction&);
  PassKey key(const Instruction&, int frame) const;
  void section_forward(const Instruction&, int frame);
  void forward(const Instruction&);
  void finish_minibatch(const Instruction&, int frame);
  void send_activation(const Instruction&);
  void recompute(const Instruction&);
  void backward(const Instruction&, Half);
  void contribute_norm(const Instruction&);
  double norm_of_all();
  void step(const Instruction&);
  void skip_update(const Instruction&);
  void copy_inputs(const Instruction&, int frame, int slot, bool to_slot);
  void measure(const Instruction&);
  void hand_out_prediction(const Instruction&, int frame);

  // In stage_health.cc: values that are not finite.
  void keep_statistics(const Instruction&);
  void check_forward(const Instruction&, int frame);
  void check_backward(const Backward&);
  Fault fault(const Instruction&) const;
  Diverged fault_in_forward(const Instruction&, int frame);
  Diverged fault_in_backward(const Backward&);

  StageOptions options_;
  int model_output_, prediction_;  // values
  std::vector<std::unique_ptr<Chunk>> chunks_;
  Replays<PassKey> replays_;
  std::unique_ptr<StageWeights> weights_;
  Memory statistics_before_, sums_before_;  // NonFinite::skip: what a mini-batch found, what a pass found
  std::optional<PredictionMeter> meter_;
  Frames measured_{0, ""};  // by place in the meter
  std::vector<float> host_prediction_;
  std::vector<Bfloat16> host_rounded_prediction_;
  std::vector<Tensor> message_;

  const Program* program_ = nullptr;
  size_t position_ = 0;
  Feed feed_;
  std::optional<Batches> batches_;
  std::array<double, LossTotals::most> counts_ = {};  // of the loss, see LossTotals
  Health health_;
  std::optional<Backward> unchecked_;  // of the gradient at hand, a backward whose share in it has not been looked at by itself
  int64_t norm_of_ = -1;               // the update whose gradient's square sum is known
  double square_sum_ = std::nan("");
  std::vector<double> square_sums_{std::nan("")};  // see square_sum()
  int64_t first_update_ = 0;                       // updates before the program
  int64_t skipped_ = 0;                            // updates since the last report
  std::chrono::duration<double> busy_{}, waited_{};  // waited_: of it, for the others' norms
};

}  // namespace pipecast
