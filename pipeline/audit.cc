#include "pipeline/audit.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "engine/error.h"

namespace pipecast {
namespace {

using Pass = std::pair<int64_t, int>;  // mini-batch, micro-batch
Pass pass_of(const Instruction& i) { return {i.minibatch, i.micro}; }
std::string text(Pass pass) { return "mini-batch " + std::to_string(pass.first) + "." + std::to_string(pass.second); }
std::string text(const Instruction& i) { return to_string(i.operation) + " of " + text(pass_of(i)); }

// All messages that went one way between two neighbours.
struct Queue {
  struct Message {
    Pass pass;
    size_t position;  // of the instruction that sent it
    int64_t time;
  };
  std::vector<Message> sent;
  std::vector<int64_t> taken;  // when
};

// The stages with their clocks. A pass takes one tick, everything else none.
class Machine {
 public:
  explicit Machine(const std::vector<Program>& programs) : activations_(programs.size()), gradients_(programs.size()) {
    for (const Program& program : programs) stages_.push_back({program});
  }

  // Which stage is looked at first makes no difference: each waits for named messages of its neighbours and for nothing else.
  std::vector<AuditedPass> run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t k = 0; k < stages_.size(); ++k)
        while (advance(k)) moved = true;
    }
    check_all_done();
    check_all_received();
    std::vector<AuditedPass> passes;
    for (size_t k = 0; k < stages_.size(); ++k) {
      check_end(k);
      passes.insert(passes.end(), stages_[k].passes.begin(), stages_[k].passes.end());
    }
    return passes;
  }

 private:
  struct Prediction {
    size_t position;
    int64_t version;
    int ahead;
    bool read = false;
  };
  struct Stashed {
    size_t position;
    int64_t version;
    bool read = false;
  };
  struct Stage {
    const Program& program;
    size_t position = 0;
    int64_t clock = 0, updates = 0;
    std::map<Pass, size_t> forwards = {};   // done: their positions
    std::map<Pass, int64_t> versions = {};  // that they read
    std::set<Pass> backwards = {};          // done
    std::optional<int64_t> gradient = {};   // the mini-batch whose gradient has accumulated since the last update
    std::optional<Prediction> prediction = {};
    std::map<int, Stashed> stash = {};  // by slot
    std::vector<AuditedPass> passes = {};

    bool done() const { return position == program.size(); }
  };

  [[noreturn]] void wrong(size_t k, size_t position, const std::string& what) const {
    throw UsageError("the program of stage " + std::to_string(k) + " is wrong at instruction " + std::to_string(position) + ", " +
                     text(stages_[k].program[position]) + ": " + what);
  }
  [[noreturn]] void wrong(size_t k, const std::string& what) const { wrong(k, stages_[k].position, what); }

  // Whether the instruction beside this one (before: -1, after: +1) is this operation of the same pass.
  bool beside(size_t k, int where, Operation operation) const {
    const Stage& stage = stages_[k];
    const size_t other = stage.position + size_t(where);  // past the end also where it is before the beginning
    return other < stage.program.size() && stage.program[other].operation == operation &&
           pass_of(stage.program[other]) == pass_of(stage.program[stage.position]);
  }

  // Carries out the next instruction of stage k; false where it must wait or there is none.
  bool advance(size_t k) {
    Stage& stage = stages_[k];
    if (stage.done()) return false;
    const Instruction& i = stage.program[stage.position];
    const bool first = k == 0, last = k == stages_.size() - 1;
    switch (i.operation) {
      case Operation::receive_activation:
        if (!beside(k, +1, Operation::forward)) wrong(k, "the forward of this pass does not follow directly");
        if (!first && !take(k, activations_[k - 1])) return false;
        break;
      case Operation::forward:
        if (!beside(k, -1, Operation::receive_activation))
          wrong(k, "the receive_activation of this pass does not stand directly before it");
        if (!stage.forwards.insert({pass_of(i), stage.position}).second) wrong(k, "it has run before");
        record(k, i);
        break;
      case Operation::send_activation:
        if (last) wrong(k, "there is no stage after it");
        if (!beside(k, -1, Operation::forward)) wrong(k, "the forward of this pass does not stand directly before it");
        if (!send(k, activations_[k])) return false;
        break;
      case Operation::receive_gradient:
        if (last) wrong(k, "there is no stage after it");
        if (!beside(k, +1, Operation::backward)) wrong(k, "the backward of this pass does not follow directly");
        if (!take(k, gradients_[k])) return false;
        break;
      case Operation::backward:
        if (!stage.forwards.count(pass_of(i))) wrong(k, "it comes before its forward");
        if (!last && !beside(k, -1, Operation::receive_gradient))
          wrong(k, "the receive_gradient of this pass does not stand directly before it");
        if (!stage.backwards.insert(pass_of(i)).second) wrong(k, "it has run before");
        if (stage.gradient && *stage.gradient != i.minibatch)
          wrong(k, "the gradient of mini-batch " + std::to_string(*stage.gradient) + " has not been used by a step yet");
        stage.gradient = i.minibatch;
        record(k, i);
        break;
      case Operation::send_gradient:
        if (first) wrong(k, "there is no stage before it");
        if (!beside(k, -1, Operation::backward)) wrong(k, "the backward of this pass does not stand directly before it");
        if (!send(k, gradients_[k - 1])) return false;
        break;
      case Operation::step:
        if (!stage.gradient) wrong(k, "no backward has run since the last step");
        if (*stage.gradient != i.minibatch) wrong(k, "the gradient is that of mini-batch " + std::to_string(*stage.gradient));
        stage.gradient.reset();
        ++stage.updates;
        break;
      case Operation::predict:
        check_prediction_was_read(k);
        stage.prediction = {stage.position, stage.updates, i.ahead};
        break;
      case Operation::stash:
        check_stash_was_read(k, i.slot);
        stage.stash[i.slot] = {stage.position, stage.updates};
        break;
    }
    ++stage.position;
    return true;
  }

  // Takes the next message of a queue; false where there is none yet.
  bool take(size_t k, Queue& queue) {
    Stage& stage = stages_[k];
    if (queue.taken.size() == queue.sent.size()) return false;
    const Queue::Message& message = queue.sent[queue.taken.size()];
    if (message.pass != pass_of(stage.program[stage.position])) wrong(k, "the message that arrives is that of " + text(message.pass));
    stage.clock = std::max(stage.clock, message.time);
    queue.taken.push_back(stage.clock);
    return true;
  }

  // Puts a message into a queue; false while the queue is full.
  bool send(size_t k, Queue& queue) {
    Stage& stage = stages_[k];
    const size_t number = queue.sent.size();
    if (number - queue.taken.size() == link_capacity) return false;
    if (number >= link_capacity) stage.clock = std::max(stage.clock, queue.taken[number - link_capacity]);
    queue.sent.push_back({pass_of(stage.program[stage.position]), stage.position, stage.clock});
    return true;
  }

  // A forward or a backward: which weights does it read?
  void record(size_t k, const Instruction& i) {
    Stage& stage = stages_[k];
    AuditedPass pass = {.stage = int(k),
                        .minibatch = i.minibatch,
                        .micro = i.micro,
                        .backward = i.operation == Operation::backward,
                        .reads = i.reads,
                        .version = stage.updates,
                        .live = stage.updates,
                        .time = stage.clock};
    if (i.reads == Reads::stash) {
      const auto stashed = stage.stash.find(i.slot);
      if (stashed == stage.stash.end()) wrong(k, "it reads slot " + std::to_string(i.slot) + " of the stash, where nothing has been put");
      stashed->second.read = true;
      pass.version = stashed->second.version;
      if (pass.backward && pass.version != stage.versions.at(pass_of(i)))
        wrong(k, "slot " + std::to_string(i.slot) + " of the stash holds version " + std::to_string(pass.version) +
                     " and its forward read version " + std::to_string(stage.versions.at(pass_of(i))));
    }
    if (i.reads == Reads::predicted) {
      std::optional<Prediction>& prediction = stage.prediction;
      if (!prediction || prediction->version != stage.updates)
        wrong(k, "it reads predicted weights and none were predicted since the last step");
      if (prediction->ahead != i.ahead)
        wrong(k, "it reads weights predicted " + std::to_string(i.ahead) + " updates ahead and the last prediction was " +
                     std::to_string(prediction->ahead) + " ahead");
      prediction->read = true;
      pass.version = prediction->version;
      pass.ahead = prediction->ahead;
    }
    if (!pass.backward) stage.versions[pass_of(i)] = pass.version;
    stage.passes.push_back(pass);
    ++stage.clock;
  }

  void check_prediction_was_read(size_t k) const {
    const std::optional<Prediction>& prediction = stages_[k].prediction;
    if (prediction && !prediction->read) wrong(k, prediction->position, "no pass reads what it predicts");
  }

  void check_stash_was_read(size_t k, int slot) const {
    const auto stashed = stages_[k].stash.find(slot);
    if (stashed != stages_[k].stash.end() && !stashed->second.read) wrong(k, stashed->second.position, "no pass reads what it stashes");
  }

  void check_all_done() const {
    std::string waiting;
    for (size_t k = 0; k < stages_.size(); ++k) {
      const Stage& stage = stages_[k];
      if (stage.done()) continue;
      const Instruction& i = stage.program[stage.position];
      const bool sends = i.operation == Operation::send_activation || i.operation == Operation::send_gradient;
      const bool upward = i.operation == Operation::send_activation || i.operation == Operation::receive_gradient;
      const size_t other = upward ? k + 1 : k - 1;
      waiting += (waiting.empty() ? "" : "; ") + std::string("stage ") + std::to_string(k) + " waits at instruction " +
                 std::to_string(stage.position) + ", " + text(i) + ", for " + (sends ? "a free place on the link to" : "a message of") +
                 " stage " + std::to_string(other) + (stages_[other].done() ? ", which has finished" : "");
    }
    if (!waiting.empty()) throw UsageError("the programs deadlock: " + waiting);
  }

  // Nothing may be left over when the programs are through.
  void check_all_received() const {
    for (size_t k = 0; k < stages_.size(); ++k)
      for (const auto& [queue, sender, receiver] : {std::tuple(&activations_[k], k, k + 1), std::tuple(&gradients_[k], k + 1, k)})
        if (queue->taken.size() < queue->sent.size())
          wrong(sender, queue->sent[queue->taken.size()].position, "stage " + std::to_string(receiver) + " never receives it");
  }

  void check_end(size_t k) const {
    const Stage& stage = stages_[k];
    for (const auto& [pass, position] : stage.forwards)
      if (!stage.backwards.count(pass)) wrong(k, position, "no backward follows");
    if (stage.gradient)
      wrong(k, stage.program.size() - 1, "the gradient of mini-batch " + std::to_string(*stage.gradient) + " is used by no step");
    check_prediction_was_read(k);
    for (const auto& [slot, stashed] : stage.stash) check_stash_was_read(k, slot);
  }

  std::vector<Stage> stages_;
  std::vector<Queue> activations_, gradients_;  // number k: between stages k and k + 1
};

}  // namespace

Audit audit(const std::vector<Program>& programs) {
  Audit audit;
  audit.passes = Machine(programs).run();
  for (const Program& program : programs) {
    audit.copies.push_back(copies_needed(program));
    audit.frames.push_back(frames_needed(program));
  }
  return audit;
}

std::string audit_json(const std::string& method, const Setting& setting, const Audit& audit) {
  nlohmann::json passes = nlohmann::json::array();
  for (const AuditedPass& pass : audit.passes)
    passes.push_back({{"stage", pass.stage},
                      {"minibatch", pass.minibatch},
                      {"micro", pass.micro},
                      {"pass", pass.backward ? "backward" : "forward"},
                      {"reads", to_string(pass.reads)},
                      {"version", pass.version},
                      {"ahead", pass.ahead},
                      {"live", pass.live}});
  return nlohmann::json{
      {"method", method}, {"stages", setting.stages}, {"copies", audit.copies}, {"frames", audit.frames}, {"passes", passes}}
      .dump();
}

}  // namespace pipecast
