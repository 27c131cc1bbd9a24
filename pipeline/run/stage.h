#pragma once
// One stage of the pipeline: it interprets its program, instruction by instruction, and knows nothing of methods. Each of its chunks has a
// section of the model and the frames for passes in flight; StageWeights has the weights.
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

// What the stage with the loss has added up in the program's passes so far: for each of Layer::means() the sum and its denominator. Passes
// whose loss was not finite are left out of both.
struct LossTotals {
  static constexpr size_t most = size_t(Section::loss_floats);
  std::array<double, most> sums = {}, counts = {};
};

// What one run of the programs is given: samples, the positions that they have in the whole training, and who is told of it.
struct Feed {
  bool training = true;
  int64_t first_minibatch = 0, end_minibatch = 0;       // the program's mini-batches are [first, end) of the training
  int64_t updates_per_epoch = 1;                        // for the learning-rate schedule
  const Batches* batches = nullptr;                     // each stage takes a copy
  Track* track = nullptr;                               // the stage's own timeline in the trace; null: nothing is recorded
  std::function<void(int64_t minibatch)> on_minibatch;  // stage with the loss: called when the loss of a mini-batch is known
  std::function<void(const Tensor&)> on_prediction;     // stage with the loss, in evaluation: the model's prediction, in fp32 on the host
};

class Stage {
 public:
  Stage(const Graph&, const StageOptions&);
  ~Stage();

  // Its ends of the channels, by channel; null where it has none.
  std::vector<std::unique_ptr<Sender>> senders;
  std::vector<std::unique_ptr<Receiver>> receivers;

  // The audit must accept the program, which must outlive the run. The arena holds one pass, so what is received must be used at once and
  // what is made sent at once.
  void begin(const Program&, Feed);
  bool done() const { return position_ == program_->size(); }
  // Whether the next instruction would go on without waiting for another stage. Before a step with the norm of all stages it first hands
  // out this stage's own norm.
  bool ready();
  // Carries out the next instruction.
  void advance();

  // A chunk's section; its latest weights and its statistics, both laid out as the section's segments.
  const Section& section(int chunk = 0) const { return chunks_[size_t(chunk)]->section; }
  float* latest(int chunk) const { return weights_->latest(chunk); }
  const float* evaluated(int chunk) const { return weights_->evaluated_values(chunk); }  // the weights that evaluations read
  float* statistics(int chunk) const { return weights_->statistics(chunk); }
  Device device() const { return options_.device; }
  const ParameterStore& store() const { return weights_->store(); }
  int64_t updates() const { return weights_->updates(); }
  int frames() const;
  int copies() const { return weights_->copies(); }  // of the weights
  // The squared norm of this stage's gradient, before clipping, in the program's n-th update, counted from 1; n = 0: in the last update
  // before the program. Not finite where that update was skipped, or where there was none. Other threads may ask for updates that are done.
  double square_sum(int64_t n) const { return square_sums_[size_t(n)]; }
  StageReport report();
  LossTotals totals();  // waits for the device
  // Floats of memory. weights: both copies; state: the optimizer's, its workspace, the average for looking back, and the moving average;
  // frames: with the inputs that are kept for recomputation.
  struct MemoryUse {
    int64_t weights, stash, gradient, state, frames, arena;
  };
  MemoryUse memory() const;

  // Everything that training needs to go on; call it between two programs. The tensors, fp32 as they lie in memory:
  //   weights/NAME, state-K/NAME (the optimizer's buffer K), gradient/NAME (where a look-ahead reads the last one), average/NAME (of
  //   looking back), moving-average/NAME, for each parameter, and statistics/NAME
  //   counters (I64): updates, updates when it looked back last, skipped updates, the bit pattern of the gradient's square sum (a double)
  //   factors: of the last update's learning rate and gradient; prediction: the sums of the PredictionMeter
  // The predicted copy and the stash are not among them: a program makes them before it reads them.
  SafeTensors save() const;
  // For a stage that has not trained. Takes what all stages of another trainer saved: each tensor is found in the stage that had it; the
  // counters come from the old stage that had this stage's first parameter. Throws UsageError where a tensor is missing or has another
  // shape.
  void restore(const std::vector<SafeTensors>&);

 private:
  // Two passes with the same key launch the same kernels on the same memory, so that one recording serves both (cuda_graphs).
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
    Frames frames, kept;           // frames: of passes that keep their activations; kept: places of passes that keep only their inputs
    std::vector<bool> keep;        // by frame: whether the forward that has it keeps its activations
    int64_t input_floats = 0;      // kept inputs of one pass
    Memory inputs = {};            // the kept inputs of all passes in `kept`
    std::vector<int> values = {};  // the values that are kept as inputs: those from the data set and from the previous piece
    int64_t spoiled = -1;          // the last mini-batch in which a forward made a value that is not finite
  };
  struct Backward {
    Instruction pass;
    Half half = Half::both;
    int frame = 0;
  };

  Chunk& chunk(const Instruction& i) { return *chunks_[size_t(i.chunk)]; }
  const Chunk& chunk(const Instruction& i) const { return *chunks_[size_t(i.chunk)]; }
  bool has_loss(const Instruction& i) const { return chunk(i).section.means() > 0; }
  PassShape shape(const Instruction&) const;
  int64_t first_sample(const Instruction&) const;  // of the pass within its mini-batch
  int frame_of(const Instruction& i) { return chunk(i).frames.find(i.tag()); }
  PassOptions pass_options(const Instruction&) const;
  std::span<const Tensor> values_of(const Instruction&, int frame, const std::vector<int>& values);
  std::span<const Tensor> gradients_of(const Instruction&, int frame, const std::vector<int>& values);

  void wait_for_others(const Instruction&);
  template <class Visit>
  void each_message(const Instruction&, const Visit&) const;
  void send_or_receive(const Instruction&, int frame);
  void receive_activation(const Instruction&);
  const Binding& read(const Instruction&) const;  // the weights of a forward
  PassKey key(const Instruction&, int frame) const;
  void section_forward(const Instruction&, int frame);
  void forward(const Instruction&);
  void after_loss(const Instruction&, int frame);
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
  int prediction_;  // the value of the graph that the loss reads
  std::vector<std::unique_ptr<Chunk>> chunks_;
  Replays<PassKey> replays_;
  std::unique_ptr<StageWeights> weights_;
  // To go back to, with NonFinite::skip: the statistics before the mini-batch, the loss's sums before the pass.
  Memory statistics_before_, sums_before_;
  std::optional<PredictionMeter> meter_;
  Frames measured_{0, ""};  // which pass has which slot of the meter
  std::vector<float> host_prediction_;
  std::vector<Bfloat16> host_rounded_prediction_;
  std::vector<Tensor> message_;  // the tensors of the message at hand

  const Program* program_ = nullptr;
  size_t position_ = 0;
  Feed feed_;
  std::optional<Batches> batches_;
  std::array<double, LossTotals::most> counts_ = {};  // see LossTotals
  Health health_;
  std::optional<Backward> unchecked_;  // the last backward whose gradients have not been checked for values that are not finite
  int64_t norm_of_ = -1;               // the update that square_sum_ belongs to; -1: none
  double square_sum_ = std::nan("");
  std::vector<double> square_sums_{std::nan("")};  // see square_sum()
  int64_t first_update_ = 0;                       // updates before the program
  int64_t skipped_ = 0;                            // updates since the last report
  std::chrono::duration<double> busy_{};
  std::chrono::duration<double> waited_{};  // of the current instruction, for other stages' norms; not counted as busy
};

}  // namespace pipecast
