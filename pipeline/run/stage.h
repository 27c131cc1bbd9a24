#pragma once
// One stage of the pipeline: its section of the model, its weights, its optimizer's state, and the interpreter of its program.
// It knows instructions, not methods.
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/loader.h"
#include "engine/graph_capture.h"
#include "engine/parameters.h"
#include "engine/files/safetensors.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "pipeline/run/gradient_norms.h"
#include "pipeline/run/health.h"
#include "pipeline/run/meter.h"
#include "pipeline/program.h"
#include "pipeline/run/section.h"
#include "pipeline/run/trace.h"
#include "pipeline/run/transport/link.h"

namespace pipecast {

// A stretch of the model: nodes [first_node, last_node) of the graph.
struct ChunkOptions {
  int first_node = 0, last_node = 0;
  int frames = 1;  // passes in flight
  int inputs = 0;  // passes in flight of which only the input is kept
};

struct StageOptions {
  Device device;
  int index = 0, count = 1;          // which stage of how many
  std::vector<ChunkOptions> chunks;  // its own; chunk c is the model's stretch c * count + index
  std::vector<int64_t> batches;      // sizes of the passes it will see
  int micro_batches = 1;
  bool predicts = false;    // the store holds a second copy
  bool looks_back = false;  // which is an estimate of earlier weights
  int stash_slots = 0;      // copies of the weights beside the store's
  bool splits_backward = false;
  bool deferred_batch_norm = false;  // running statistics are those of whole mini-batches
  LookAheadMode look_ahead = LookAheadMode::paper;
  const Optimizer* optimizer = nullptr;
  Schedule schedule;
  float clip_norm = 0;                 // gradients above this norm are scaled down to it; 0: none is
  GradientNorms* all_norms = nullptr;  // with it the norm is that of all stages' gradients together, else that of this stage's
  NonFinite non_finite = NonFinite::stop;
  float label_smoothing = 0;
  uint64_t seed = 0;
  bool cuda_graphs = false;  // passes are recorded and replayed; no layer reads the step, batch norm is not deferred
};

// What a stage reports of its training since the last report.
struct StageReport {
  double busy_seconds = 0;  // spent computing, not waiting
  PredictionError prediction;
  int64_t skipped_updates = 0;
};

// Of the program's passes so far; only the last stage has any.
struct LossTotals {
  double loss = 0, hits = 0;  // sums over the samples
  int64_t left_out = 0;       // samples of passes whose loss was not finite; they are in neither sum
};

// Where one run of programs takes its samples from.
struct Feed {
  bool training = true;
  int64_t first_minibatch = 0;                          // what mini-batch 0 of the program is, counted over the whole training
  int64_t updates_per_epoch = 1;                        // for the learning-rate schedule
  Batches* batches = nullptr;                           // sizes and labels; each stage has its own
  Loader* loader = nullptr;                             // images, for the first stage
  Track* track = nullptr;                               // each stage has its own, for what it does; null: nobody wants to know
  std::function<void(int64_t minibatch)> on_minibatch;  // last stage, after the loss of a mini-batch is known
  std::function<void(const Tensor&)> on_logits;         // last stage, evaluation: logits on the host
};

class Stage {
 public:
  Stage(const Graph&, const StageOptions&);

  // Messages to and from the neighbours; null at the ends of the model.
  Link *activations_in = nullptr, *activations_out = nullptr, *gradients_in = nullptr, *gradients_out = nullptr;

  // A program that the audit accepts: what is received is used at once and what is made is sent at once, as the arena holds one pass.
  void begin(const Program&, Feed);
  bool done() const { return position_ == program_->size(); }
  // Whether the next instruction would go on without waiting for another stage.
  bool ready();
  // Carries out the next instruction, with those that belong to it.
  void advance();

  // Of a chunk: its section, and the places of its weights and statistics, laid out as the section's segments are.
  const Section& section(int chunk = 0) const { return chunks_[size_t(chunk)].section; }
  float* latest(int chunk) const { return store_.latest() + chunks_[size_t(chunk)].parameters; }
  float* statistics(int chunk) const { return statistics_.data() + chunks_[size_t(chunk)].statistics; }
  Device device() const { return options_.device; }
  const ParameterStore& store() const { return store_; }
  int64_t updates() const { return updates_; }
  int frames() const;
  int copies() const { return store_.copies() + options_.stash_slots; }  // of the weights
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
  //   counters (I64): updates, looked_back_, skipped_, bits of square_sum_; factors: rate_scale_, gradient_scale_;
  //   prediction: the meter's sums
  // The predicted copy and the stash are not among them: a program makes them before it reads them.
  SafeTensors save() const;
  // Into a stage that has not trained, from those of a whole trainer: each tensor from the stage that had it, what is the stage's own
  // from the one that had its first parameter. Throws UsageError where a tensor is missing or has another shape.
  void restore(const std::vector<SafeTensors>&);

 private:
  struct InFlight {
    bool used = false;
    Tag tag;
    bool keep = true;  // beyond its forward
  };
  // What decides which kernels a pass of a section is, and on which memory they work.
  struct PassKey {
    Operation operation;
    bool training;
    int chunk, frame;
    const Binding* weights;
    int64_t batch;
    auto operator<=>(const PassKey&) const = default;
  };
  struct Chunk {
    Section section;
    int64_t parameters = 0, statistics = 0;  // where they begin in the stage's buffers, in floats
    Binding latest = {}, other = {}, gradient = {}, statistic_bindings = {};
    std::vector<Binding> stashed = {};  // by slot
    std::vector<InFlight> frames = {}, kept = {};
    int64_t input_floats = 0;  // of one pass
    Memory inputs = {};        // of the passes in `kept`
    int64_t spoiled = -1;      // the last mini-batch with a forward that was not finite
  };
  struct Backward {
    Instruction pass;
    Half half = Half::both;
    int frame = 0;
  };

  bool first(int chunk) const { return options_.index == 0 && chunk == 0; }
  bool last(int chunk) const { return options_.index == options_.count - 1 && size_t(chunk) == chunks_.size() - 1; }
  Chunk& chunk(const Instruction& i) { return chunks_[size_t(i.chunk)]; }
  Tag next_tag(const Instruction&) const;      // what the stage after calls this pass
  Tag previous_tag(const Instruction&) const;  // and the one before

  int64_t batch_size(const Instruction&) const;
  int64_t first_sample(const Instruction&) const;  // of the pass within its mini-batch
  int take(std::vector<InFlight>&, const Instruction&);
  int find(const std::vector<InFlight>&, const Instruction&) const;
  int frame_of(const Instruction& i) { return find(chunk(i).frames, i); }
  PassOptions pass_options(const Instruction&) const;
  LookAhead look_ahead(int ahead);
  const Binding& weights(const Instruction&) const;
  const float* flat_weights(const Instruction&) const;
  template <class Place>
  std::span<const Tensor> gradients(const std::vector<int>& values, const Place&);

  void wait_for_others(const Instruction&);
  void receive_activation(const Instruction&);
  PassKey key(const Instruction&, int frame) const;
  void section_forward(const Instruction&, int frame);
  void forward(const Instruction&);
  void send_activation(const Instruction&);
  void recompute(const Instruction&);
  void backward(const Instruction&, Half);
  void add_loss(const Instruction&, int frame);
  void predict(int ahead);
  void contribute_norm(const Instruction&);
  void step(const Instruction&);
  void skip_update(const Instruction&);
  int32_t* host_labels() const { return reinterpret_cast<int32_t*>(host_labels_.data()); }
  void load_labels(const Instruction&, int frame);
  void copy_inputs(const Instruction&, int frame, int slot, bool to_slot);
  void measure(const Instruction&);
  bool keeps_gradient() const { return options_.optimizer->looks_at_gradient(options_.look_ahead); }
  // Calls visit(tensor's name in a checkpoint, its shape, its place) for the parameters in one flat buffer, or for the statistics.
  template <class Visit>
  void each_parameter(const std::string& kind, float* buffer, const Visit& visit) const;
  template <class Visit>
  void each_statistic(const Visit& visit) const;
  template <class Visit>
  void each_kept(const Visit& visit) const;  // of all kinds but the average, which another partition may lack

  void keep_statistics(const Instruction&);
  void check_forward(const Instruction&, int frame);
  void check_backward(const Backward&);
  Fault fault(const Instruction&) const;
  Diverged fault_in_forward(const Instruction&, int frame);
  Diverged fault_in_backward(const Backward&);

  StageOptions options_;
  std::vector<Chunk> chunks_;
  Replays<PassKey> replays_;
  ParameterStore store_;
  Memory stash_, statistics_, state_, scratch_, average_;  // scratch_: the optimizer's; average_: see look_back()
  Memory loss_;                                            // totals (16 floats), then loss and hit per row
  Memory statistics_before_, totals_before_;               // NonFinite::skip: what a mini-batch found, what a pass found
  Memory labels_;                                          // int32, per frame of the last chunk
  std::vector<Matrix> matrices_;
  Buffers buffers_;
  std::optional<PredictionMeter> meter_;
  std::vector<InFlight> measured_;  // by place in the meter
  HostMemory host_labels_;          // int32, of a mini-batch
  Event uploaded_, labelled_;       // the copies of images and labels so far: then the host may write to their places again
  std::vector<float> rates_, host_logits_;
  std::vector<Bfloat16> host_rounded_logits_;
  Memory images_in_fp32_;  // of a pass, where they are stored otherwise
  std::vector<Tensor> message_;
  std::span<const float> images_;  // of the mini-batch that is being fed
  int64_t label_minibatch_ = -1;

  const Program* program_ = nullptr;
  size_t position_ = 0;
  Feed feed_;
  int64_t updates_ = 0, looked_back_ = 0;  // looked_back_: the updates when average_ was last brought up to date
  Health health_;
  std::optional<Backward> unchecked_;  // of the gradient at hand, a backward whose share in it nobody has looked at by itself
  int64_t norm_of_ = -1;               // the update whose gradient's square sum is known
  double square_sum_ = std::nan("");
  std::vector<double> square_sums_{std::nan("")};  // see square_sum()
  int64_t first_update_ = 0;                       // updates before the program
  int64_t skipped_ = 0, left_out_ = 0;             // updates since the last report; see LossTotals
  float rate_scale_ = 1, gradient_scale_ = 1;      // of the last update
  bool gradient_is_used_ = true;                   // the next backward begins a new sum
  std::chrono::duration<double> busy_{};
};

}  // namespace pipecast
