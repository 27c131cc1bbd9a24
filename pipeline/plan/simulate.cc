#include "pipeline/plan/simulate.h"

#include <algorithm>
#include <array>

#include "engine/error.h"

namespace pipecast {
namespace {

// Messages one way between two neighbours. No more than link_capacity are on their way, so the times of older ones are not needed.
struct Wire {
  int64_t sent = 0, taken = 0;
  std::array<double, link_capacity> arrival{}, freed{};  // of message n at n % link_capacity
  double free_at = 0;                                    // when the last message has left the sender
};

class Walk {
 public:
  Walk(const std::vector<Program>& programs, const Costs& costs, std::vector<SimulatedPass>* passes)
      : programs_(programs), costs_(costs), passes_(passes), count_(programs.size()), activations_(count_), gradients_(count_) {
    const size_t chunks = size_t(pipecast::chunks(programs));
    if (costs.stages.size() != count_)
      throw UsageError("the costs are those of " + std::to_string(costs.stages.size()) + " stages and the programs those of " +
                       std::to_string(count_));
    for (size_t k = 0; k < count_; ++k) {
      if (costs.stages[k].chunks.size() < chunks)
        throw UsageError("the costs of stage " + std::to_string(k) + " are those of " + std::to_string(costs.stages[k].chunks.size()) +
                         " chunks and the programs have " + std::to_string(chunks));
      stages_.push_back({});
      stages_[k].in_flight.resize(chunks), stages_[k].most.resize(chunks);
      stages_[k].kept.resize(chunks), stages_[k].most_kept.resize(chunks);
    }
  }

  Simulation run() {
    // Stages that may be able to go on. What a stage does can only help its neighbours.
    std::vector<size_t> able;
    std::vector<bool> listed(count_, true);
    for (size_t k = count_; k-- > 0;) able.push_back(k);
    while (!able.empty()) {
      const size_t k = able.back();
      able.pop_back();
      listed[k] = false;
      const size_t before = stages_[k].position;
      while (advance(k)) continue;
      if (stages_[k].position == before) continue;
      for (size_t other : {previous(k), next(k)})
        if (other != k && !listed[other] && !done(other)) able.push_back(other), listed[other] = true;
    }
    for (size_t k = 0; k < count_; ++k)
      if (!done(k))
        throw UsageError("the programs deadlock: stage " + std::to_string(k) + " waits for ever at instruction " +
                         std::to_string(stages_[k].position) + "; an audit shows what for");
    return result();
  }

 private:
  struct Stage {
    size_t position = 0;
    double clock = 0, busy = 0;
    std::vector<int> in_flight, most, kept, most_kept;  // by chunk: frames and inputs, now and at most
  };

  bool done(size_t k) const { return stages_[k].position == programs_[k].size(); }
  size_t previous(size_t k) const { return (k + count_ - 1) % count_; }
  size_t next(size_t k) const { return (k + 1) % count_; }
  double copying(int64_t bytes) const {
    return costs_.link.copy_bytes_per_second > 0 ? double(bytes) / costs_.link.copy_bytes_per_second : 0;
  }

  // Carries out the next instruction of stage k; false where it must wait or there is none.
  bool advance(size_t k) {
    if (done(k)) return false;
    Stage& stage = stages_[k];
    const Instruction& i = programs_[k][stage.position];
    const StageCosts& costs = costs_.stages[k];
    const size_t chunk = size_t(i.chunk);
    const ChunkCosts& pass = costs.chunks[chunk];
    switch (i.operation) {
      case Operation::receive_activation:
        if (k == 0 && i.chunk == 0) stage.clock += copying(pass.activation_bytes);
        else if (!take(stage, activations_[previous(k)], pass.activation_bytes)) return false;
        break;
      case Operation::send_activation: {
        const size_t next_chunk = chunk + (k + 1 == count_ ? 1 : 0);
        if (!send(stage, activations_[k], costs_.stages[next(k)].chunks.at(next_chunk).activation_bytes)) return false;
        break;
      }
      case Operation::receive_gradient: {
        const size_t next_chunk = chunk + (k + 1 == count_ ? 1 : 0);
        if (!take(stage, gradients_[k], costs_.stages[next(k)].chunks.at(next_chunk).gradient_bytes)) return false;
        break;
      }
      case Operation::send_gradient:
        if (!send(stage, gradients_[previous(k)], pass.gradient_bytes)) return false;
        break;
      case Operation::forward:
        compute(k, pass.forward + (i.keep ? 0 : copying(pass.input_bytes)));
        hold(stage, chunk, i.keep);
        if (!i.keep) stage.most_kept[chunk] = std::max(stage.most_kept[chunk], ++stage.kept[chunk]);
        break;
      case Operation::recompute:
        compute(k, pass.forward + copying(pass.input_bytes));
        hold(stage, chunk, true);
        --stage.kept[chunk];
        break;
      case Operation::backward:
        compute(k, pass.backward);
        --stage.in_flight[chunk];
        break;
      case Operation::backward_input: compute(k, pass.input_half); break;
      case Operation::backward_weight:
        compute(k, pass.weight_half);
        --stage.in_flight[chunk];
        break;
      case Operation::step: {
        const size_t after = stage.position + 1;
        const bool joined =
            after < programs_[k].size() && programs_[k][after].operation == Operation::predict && programs_[k][after].ahead >= 0;
        compute(k, joined ? costs.step_and_predict : costs.step);
        if (joined) ++stage.position;
        if (k + 1 == count_) steps_.push_back(stage.clock);
        break;
      }
      case Operation::predict: compute(k, costs.predict); break;
      case Operation::stash: compute(k, costs.stash); break;
    }
    ++stage.position;
    return true;
  }

  void compute(size_t k, double seconds) {
    Stage& stage = stages_[k];
    const Instruction& i = programs_[k][stage.position];
    if (passes_ && (is_pass(i.operation) || i.operation == Operation::backward_weight))
      passes_->push_back({int(k), i.operation, i.tag(), stage.clock, stage.clock + seconds});
    stage.clock += seconds, stage.busy += seconds;
  }

  // A pass takes one more frame, and keeps it until its backward where `keep` says so.
  void hold(Stage& stage, size_t chunk, bool keep) {
    stage.most[chunk] = std::max(stage.most[chunk], stage.in_flight[chunk] + 1);
    if (keep) ++stage.in_flight[chunk];
  }

  // Takes the next message; false where it has not been sent.
  bool take(Stage& stage, Wire& wire, int64_t bytes) {
    if (wire.taken == wire.sent) return false;
    const size_t place = size_t(wire.taken % link_capacity);
    stage.clock = std::max(stage.clock, wire.arrival[place]) + copying(bytes);
    wire.freed[place] = stage.clock;
    ++wire.taken;
    return true;
  }

  // Sends a message; false where no place is free yet.
  bool send(Stage& stage, Wire& wire, int64_t bytes) {
    if (wire.sent - wire.taken == link_capacity) return false;
    const size_t place = size_t(wire.sent % link_capacity);
    stage.clock = std::max(stage.clock, wire.freed[place]) + copying(bytes);
    const double rate = costs_.link.bytes_per_second;
    wire.free_at = std::max(wire.free_at, stage.clock) + (rate > 0 ? double(bytes) / rate : 0);
    wire.arrival[place] = wire.free_at + costs_.link.latency;
    ++wire.sent;
    return true;
  }

  Simulation result() const {
    Simulation result;
    double busy = 0;
    for (size_t k = 0; k < count_; ++k) {
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
    if (result.seconds > 0) result.bubble_share = 1 - busy / (double(count_) * result.seconds);
    if (!steps_.empty()) {
      const size_t first = steps_.size() / 4, last = steps_.size() - 1 - first;
      result.step_seconds = last > first ? (steps_[last] - steps_[first]) / double(last - first) : result.seconds / double(steps_.size());
    }
    return result;
  }

  const std::vector<Program>& programs_;
  const Costs& costs_;
  std::vector<SimulatedPass>* passes_;
  size_t count_;
  std::vector<Stage> stages_;
  std::vector<Wire> activations_, gradients_;  // number k goes between stages k and k + 1, the last one round to stage 0
  std::vector<double> steps_;                  // when the last stage has done its updates
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
  return {std::vector<StageCosts>(size_t(stages), stage), {}};
}

Simulation simulate(const std::vector<Program>& programs, const Costs& costs, std::vector<SimulatedPass>* passes) {
  return Walk(programs, costs, passes).run();
}

}  // namespace pipecast
