#include "pipeline/plan/simulate.h"

#include <algorithm>

#include "engine/error.h"
#include "pipeline/plan/walker.h"

namespace pipecast {
namespace {

// A channel as the stages at its ends see it. As many messages as it has places are on their way, so the times of older ones are not
// needed.
struct Wire {
  std::vector<double> arrival, freed;  // of message n at n % capacity
  double free_at = 0;                  // when the last message has left the sender
};

class Simulator : public Visitor {
 public:
  Simulator(const std::vector<Program>& programs, const Channels& channels, const Costs& costs, std::vector<SimulatedPass>* passes)
      : programs_(programs), channels_(channels), costs_(costs), passes_(passes) {
    const size_t chunks = size_t(channels.chunks());
    if (costs.stages.size() != programs.size())
      throw UsageError("the costs are those of " + std::to_string(costs.stages.size()) + " stages and the programs those of " +
                       std::to_string(programs.size()));
    for (size_t k = 0; k < programs.size(); ++k) {
      if (costs.stages[k].chunks.size() < chunks)
        throw UsageError("the costs of stage " + std::to_string(k) + " are those of " + std::to_string(costs.stages[k].chunks.size()) +
                         " chunks and the programs have " + std::to_string(chunks));
      stages_.push_back({});
      stages_[k].in_flight.resize(chunks), stages_[k].most.resize(chunks);
      stages_[k].kept.resize(chunks), stages_[k].most_kept.resize(chunks);
    }
    for (const Channel& channel : channels.all())
      wires_.push_back({std::vector<double>(size_t(channel.capacity)), std::vector<double>(size_t(channel.capacity))});
  }

  void receive(int k, size_t, const Message& message, const Tag&, int64_t number) override {
    Wire& wire = wires_[size_t(message.channel)];
    const size_t place = size_t(number) % wire.arrival.size();
    double& clock = stages_[size_t(k)].clock;
    clock = std::max(clock, wire.arrival[place]) + copying(bytes(message));
    wire.freed[place] = clock;
  }

  void send(int k, size_t, const Message& message, int64_t number) override {
    Wire& wire = wires_[size_t(message.channel)];
    const size_t place = size_t(number) % wire.arrival.size();
    const int64_t size = bytes(message);
    double& clock = stages_[size_t(k)].clock;
    clock = std::max(clock, wire.freed[place]) + copying(size);
    const double rate = costs_.link.bytes_per_second;
    wire.free_at = std::max(wire.free_at, clock) + (rate > 0 ? double(size) / rate : 0);
    wire.arrival[place] = wire.free_at + costs_.link.latency;
  }

  void carry_out(int k, size_t position) override {
    Stage& stage = stages_[size_t(k)];
    const Instruction& i = programs_[size_t(k)][position];
    const StageCosts& costs = costs_.stages[size_t(k)];
    const size_t chunk = size_t(i.chunk);
    const ChunkCosts& pass = costs.chunks[chunk];
    switch (i.operation) {
      case Operation::receive_activation:
        if (k == 0 && i.chunk == 0) stage.clock += copying(pass.activation_bytes);
        break;
      case Operation::send_activation:
      case Operation::receive_gradient:
      case Operation::send_gradient: break;
      case Operation::forward:
        compute(k, i, pass.forward + (i.keep ? 0 : copying(pass.input_bytes)));
        hold(stage, chunk, i.keep);
        if (!i.keep) stage.most_kept[chunk] = std::max(stage.most_kept[chunk], ++stage.kept[chunk]);
        break;
      case Operation::recompute:
        compute(k, i, pass.forward + copying(pass.input_bytes));
        hold(stage, chunk, true);
        --stage.kept[chunk];
        break;
      case Operation::backward:
        compute(k, i, pass.backward);
        --stage.in_flight[chunk];
        break;
      case Operation::backward_input: compute(k, i, pass.input_half); break;
      case Operation::backward_weight:
        compute(k, i, pass.weight_half);
        --stage.in_flight[chunk];
        break;
      case Operation::step:
      case Operation::step_and_predict:
        compute(k, i, i.operation == Operation::step ? costs.step : costs.step_and_predict);
        if (k + 1 == channels_.stages()) steps_.push_back(stage.clock);
        break;
      case Operation::predict:
      case Operation::look_back: compute(k, i, costs.predict); break;
      case Operation::stash: compute(k, i, costs.stash); break;
    }
  }

  Simulation result() const {
    Simulation result;
    double busy = 0;
    for (size_t k = 0; k < stages_.size(); ++k) {
      const Stage& stage = stages_[k];
      const StageCosts& costs = costs_.stages[k];
      SimulatedStage s;
      s.busy_seconds = stage.busy;
      s.copies = copies_needed(programs_[k]);
      s.weight_bytes = s.copies * costs.weight_bytes, s.gradient_bytes = costs.weight_bytes;
      s.state_bytes = costs.state_bytes + (looks_back(programs_[k]) ? costs.weight_bytes : 0);
      s.arena_bytes = costs.arena_bytes;
      for (size_t chunk = 0; chunk < stage.most.size(); ++chunk) {
        s.frames += stage.most[chunk], s.inputs += stage.most_kept[chunk];
        s.frame_bytes += stage.most[chunk] * costs.chunks[chunk].frame_bytes + stage.most_kept[chunk] * costs.chunks[chunk].input_bytes;
      }
      result.seconds = std::max(result.seconds, stage.clock);
      busy += stage.busy;
      result.stages.push_back(s);
    }
    if (result.seconds > 0) result.bubble_share = 1 - busy / (double(stages_.size()) * result.seconds);
    if (!steps_.empty()) {
      const size_t first = steps_.size() / 4, last = steps_.size() - 1 - first;
      result.step_seconds = last > first ? (steps_[last] - steps_[first]) / double(last - first) : result.seconds / double(steps_.size());
    }
    return result;
  }

 private:
  struct Stage {
    double clock = 0, busy = 0;
    std::vector<int> in_flight, most, kept, most_kept;  // by chunk: frames and inputs, now and at most
  };

  double copying(int64_t bytes) const {
    return costs_.link.copy_bytes_per_second > 0 ? double(bytes) / costs_.link.copy_bytes_per_second : 0;
  }

  int64_t bytes(const Message& message) const {
    const size_t stages = stages_.size(), hop = size_t(message.hop), pieces = size_t(channels_.pieces());
    const auto of = [&](const auto& costs) {
      return channels_.all()[size_t(message.channel)].gradients ? costs.gradient_bytes : costs.activation_bytes;
    };
    return hop < pieces ? of(costs_.stages[hop % stages].chunks[hop / stages]) : of(costs_.skips[hop - pieces]);
  }

  void compute(int k, const Instruction& i, double seconds) {
    Stage& stage = stages_[size_t(k)];
    if (passes_ && (is_pass(i.operation) || i.operation == Operation::backward_weight))
      passes_->push_back({k, i.operation, i.tag(), stage.clock, stage.clock + seconds});
    stage.clock += seconds, stage.busy += seconds;
  }

  // A pass takes one more frame, and keeps it until its backward where `keep` says so.
  static void hold(Stage& stage, size_t chunk, bool keep) {
    stage.most[chunk] = std::max(stage.most[chunk], stage.in_flight[chunk] + 1);
    if (keep) ++stage.in_flight[chunk];
  }

  const std::vector<Program>& programs_;
  const Channels& channels_;
  const Costs& costs_;
  std::vector<SimulatedPass>* passes_;
  std::vector<Stage> stages_;
  std::vector<Wire> wires_;    // by channel
  std::vector<double> steps_;  // when the last stage has done its updates
};

}  // namespace

Costs uniform_costs(int stages, int chunks, double forward, double backward, int64_t message_bytes) {
  StageCosts stage;
  stage.chunks.resize(size_t(chunks), {.forward = forward / chunks,
                                       .backward = backward / chunks,
                                       .input_half = backward / chunks / 2,
                                       .weight_half = backward / chunks / 2,
                                       .activation_bytes = message_bytes,
                                       .gradient_bytes = message_bytes});
  return {std::vector<StageCosts>(size_t(stages), stage), {}, {}};
}

Simulation simulate(const std::vector<Program>& programs, const Costs& costs, std::vector<SimulatedPass>* passes) {
  const int pieces = int(programs.size()) * chunks(programs);
  std::vector<Skip> skips;
  for (const SkipCosts& s : costs.skips) {
    if (s.skip.from < 0 || s.skip.to < s.skip.from + 2 || s.skip.to >= pieces)
      throw UsageError("the costs have a skip from piece " + std::to_string(s.skip.from) + " to piece " + std::to_string(s.skip.to) +
                       " of " + std::to_string(pieces));
    skips.push_back(s.skip);
  }
  const Channels channels(programs, std::move(skips));
  Simulator simulator(programs, channels, costs, passes);
  const WalkEnd end = walk(programs, channels, simulator);
  if (!end.waiting.empty())
    throw UsageError("the programs deadlock: stage " + std::to_string(end.waiting.front().stage) + " waits for ever at instruction " +
                     std::to_string(end.waiting.front().position) + "; an audit shows what for");
  return simulator.result();
}

}  // namespace pipecast
