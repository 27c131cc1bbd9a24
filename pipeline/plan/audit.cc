#include "pipeline/plan/audit.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

namespace pipecast {
namespace {

std::string text(const Instruction& i) { return to_string(i.operation) + " of " + to_string(i.tag()); }

// All messages that went one way between two neighbours.
struct Queue {
  struct Message {
    Tag pass;         // as the receiver calls it
    size_t position;  // of the instruction that sent it
    int64_t time;
  };
  std::vector<Message> sent;
  std::vector<int64_t> taken;  // when
};

// The stages with their clocks. A pass takes one tick, everything else none.
class Machine {
 public:
  Machine(const std::vector<Program>& programs, int most_copies)
      : chunks_(chunks(programs)), most_copies_(most_copies), activations_(programs.size()), gradients_(programs.size()) {
    for (const Program& program : programs) stages_.push_back({program});
  }

  // Which stage is looked at first makes no difference: each waits for named messages of its neighbours and for nothing else.
  void run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t k = 0; k < stages_.size(); ++k)
        while (advance(k)) moved = true;
    }
    check_all_done();
    check_all_received();
    for (size_t k = 0; k < stages_.size(); ++k) check_end(k);
  }

  std::vector<AuditedPass> passes() const { return of_all(&Stage::audited); }
  std::vector<AuditedStep> steps() const { return of_all(&Stage::steps); }

 private:
  // The content of a copy beside the latest weights: the predicted one, or a slot of the stash.
  struct Copy {
    size_t position;  // of the instruction that made it
    int64_t version;
    int ahead = 0;
    bool predicted = false;
    bool read = false;
  };
  struct Begun {
    size_t position;  // of its forward
    int64_t version;  // that it read
    bool kept;        // its activations are there
    bool backward = false, awaits_weight_half = false;
  };
  struct Stage {
    const Program& program;
    size_t position = 0;
    int64_t clock = 0, updates = 0;
    std::map<Tag, Begun> passes = {};
    int awaiting_weight_half = 0;
    std::optional<int64_t> gradient = {};  // the mini-batch whose gradient has accumulated since the last update
    std::optional<Copy> prediction = {};
    std::map<int, Copy> stash = {};  // by slot
    std::vector<AuditedPass> audited = {};
    std::vector<AuditedStep> steps = {};

    bool done() const { return position == program.size(); }
    const Instruction& next() const { return program[position]; }
  };

  template <class T>
  std::vector<T> of_all(std::vector<T> Stage::*member) const {
    std::vector<T> all;
    for (const Stage& stage : stages_) all.insert(all.end(), (stage.*member).begin(), (stage.*member).end());
    return all;
  }

  [[noreturn]] void wrong(size_t k, size_t position, const std::string& what) const {
    throw AuditFault("the program of stage " + std::to_string(k) + " is wrong at instruction " + std::to_string(position) + ", " +
                         text(stages_[k].program[position]) + ": " + what,
                     passes(), {{int(k), stages_[k].clock}});
  }
  [[noreturn]] void wrong(size_t k, const std::string& what) const { wrong(k, stages_[k].position, what); }

  // Whether the instruction beside this one (before: -1, after: +1) is such an operation of the same pass.
  template <class Is>
  bool beside(size_t k, int where, Is is) const {
    const Stage& stage = stages_[k];
    const size_t other = stage.position + size_t(where);  // past the end also where it is before the beginning
    return other < stage.program.size() && is(stage.program[other].operation) && stage.program[other].tag() == stage.next().tag();
  }
  static auto is(Operation operation) {
    return [operation](Operation other) { return other == operation; };
  }

  // The ends of the model.
  bool first(size_t k, int chunk) const { return k == 0 && chunk == 0; }
  bool last(size_t k, int chunk) const { return k + 1 == stages_.size() && chunk + 1 == chunks_; }
  // Queue number k goes between stages k and k + 1, the last one round to stage 0.
  size_t before(size_t k) const { return (k + stages_.size() - 1) % stages_.size(); }

  // Carries out the next instruction of stage k; false where it must wait or there is none.
  bool advance(size_t k) {
    Stage& stage = stages_[k];
    if (stage.done()) return false;
    const Instruction& i = stage.next();
    if (i.chunk < 0) wrong(k, "the chunk is below 0");
    const auto begun = stage.passes.find(i.tag());
    const bool known = begun != stage.passes.end();
    switch (i.operation) {
      case Operation::receive_activation:
        if (!beside(k, +1, is(Operation::forward))) wrong(k, "the forward of this pass does not follow directly");
        if (!first(k, i.chunk) && !take(k, activations_[before(k)])) return false;
        break;
      case Operation::forward:
        if (!beside(k, -1, is(Operation::receive_activation)))
          wrong(k, "the receive_activation of this pass does not stand directly before it");
        if (known) wrong(k, "it has run before");
        stage.passes[i.tag()] = {stage.position, record(k, i), i.keep};
        break;
      case Operation::send_activation:
        if (last(k, i.chunk)) wrong(k, "there is no stage after it");
        if (!beside(k, -1, is(Operation::forward))) wrong(k, "the forward of this pass does not stand directly before it");
        if (!send(k, activations_[k], i.chunk + (k + 1 == stages_.size() ? 1 : 0))) return false;
        break;
      case Operation::receive_gradient:
        if (last(k, i.chunk)) wrong(k, "there is no stage after it");
        if (!beside(k, +1, is_backward)) wrong(k, "the backward of this pass does not follow directly");
        if (!take(k, gradients_[k])) return false;
        break;
      case Operation::recompute:
        if (!known) wrong(k, "it comes before its forward");
        if (begun->second.kept) wrong(k, "the activations are still there");
        begun->second.kept = true;
        record(k, i);
        break;
      case Operation::backward:
      case Operation::backward_input:
        if (!known) wrong(k, "it comes before its forward");
        if (!last(k, i.chunk) && !beside(k, -1, is(Operation::receive_gradient)))
          wrong(k, "the receive_gradient of this pass does not stand directly before it");
        if (begun->second.backward) wrong(k, "it has run before");
        if (!begun->second.kept) wrong(k, "its forward kept no activations and no recompute has made them again");
        if (stage.gradient && *stage.gradient != i.minibatch)
          wrong(k, "the gradient of mini-batch " + std::to_string(*stage.gradient) + " has not been used by a step yet");
        begun->second.backward = true;
        if (i.operation == Operation::backward_input) begun->second.awaits_weight_half = true, ++stage.awaiting_weight_half;
        stage.gradient = i.minibatch;
        record(k, i);
        break;
      case Operation::backward_weight:
        if (!known || !begun->second.awaits_weight_half) wrong(k, "no backward_input of this pass waits for it");
        begun->second.awaits_weight_half = false, --stage.awaiting_weight_half;
        record(k, i);
        break;
      case Operation::send_gradient:
        if (first(k, i.chunk)) wrong(k, "there is no stage before it");
        if (!beside(k, -1, is_backward)) wrong(k, "the backward of this pass does not stand directly before it");
        if (!send(k, gradients_[before(k)], i.chunk - (k == 0 ? 1 : 0))) return false;
        break;
      case Operation::step:
        if (!stage.gradient) wrong(k, "no backward has run since the last step");
        if (*stage.gradient != i.minibatch) wrong(k, "the gradient is that of mini-batch " + std::to_string(*stage.gradient));
        if (stage.awaiting_weight_half > 0)
          wrong(k, std::to_string(stage.awaiting_weight_half) + " backward_weight of its passes have not run");
        stage.gradient.reset();
        ++stage.updates;
        stage.steps.push_back({int(k), i.scale, i.ahead, stage.clock});
        break;
      case Operation::predict:
        if (stage.prediction) check_was_read(k, *stage.prediction, "predicts");
        stage.prediction = Copy{stage.position, stage.updates, i.ahead, true};
        check_copies(k);
        break;
      case Operation::stash: stash(k, i); break;
    }
    ++stage.position;
    return true;
  }

  // Takes the next message of a queue; false where there is none yet.
  bool take(size_t k, Queue& queue) {
    Stage& stage = stages_[k];
    if (queue.taken.size() == queue.sent.size()) return false;
    const Queue::Message& message = queue.sent[queue.taken.size()];
    if (message.pass != stage.next().tag()) wrong(k, "the message that arrives is that of " + to_string(message.pass));
    stage.clock = std::max(stage.clock, message.time);
    queue.taken.push_back(stage.clock);
    return true;
  }

  // Puts a message into a queue; false while the queue is full.
  bool send(size_t k, Queue& queue, int chunk) {
    Stage& stage = stages_[k];
    const size_t number = queue.sent.size();
    if (number - queue.taken.size() == link_capacity) return false;
    if (number >= link_capacity) stage.clock = std::max(stage.clock, queue.taken[number - link_capacity]);
    Tag pass = stage.next().tag();
    pass.chunk = chunk;
    queue.sent.push_back({pass, stage.position, stage.clock});
    return true;
  }

  void stash(size_t k, const Instruction& i) {
    Stage& stage = stages_[k];
    if (i.slot < 0) wrong(k, "the slot is below 0");
    if (i.reads == Reads::stash) wrong(k, "it can copy the latest or the predicted weights, not a slot of the stash");
    if (i.reads == Reads::predicted && !stage.prediction) wrong(k, "nothing has been predicted");
    const auto stashed = stage.stash.find(i.slot);
    if (stashed != stage.stash.end()) check_was_read(k, stashed->second, "stashes");
    Copy copy = {stage.position, stage.updates};
    if (i.reads == Reads::predicted) {
      stage.prediction->read = true;
      copy = *stage.prediction;
      copy.position = stage.position, copy.read = false;
    }
    stage.stash[i.slot] = copy;
    check_copies(k);
  }

  void check_copies(size_t k) const {
    const Stage& stage = stages_[k];
    const int copies = 1 + (stage.prediction ? 1 : 0) + (stage.stash.empty() ? 0 : stage.stash.rbegin()->first + 1);
    if (most_copies_ > 0 && copies > most_copies_)
      wrong(k, "it needs copy number " + std::to_string(copies) + " of the weights, and at most " + std::to_string(most_copies_) +
                   " may be kept");
  }

  // A pass: which weights does it read? Returns their version.
  int64_t record(size_t k, const Instruction& i) {
    Stage& stage = stages_[k];
    AuditedPass pass = {.stage = int(k),
                        .minibatch = i.minibatch,
                        .micro = i.micro,
                        .chunk = i.chunk,
                        .operation = i.operation,
                        .reads = i.reads,
                        .version = stage.updates,
                        .live = stage.updates,
                        .time = stage.clock};
    if (i.reads == Reads::stash) {
      const auto found = stage.stash.find(i.slot);
      if (found == stage.stash.end()) wrong(k, "it reads slot " + std::to_string(i.slot) + " of the stash, where nothing has been put");
      Copy& stashed = found->second;
      const std::string slot = "slot " + std::to_string(i.slot) + " of the stash";
      if (stage.updates - stashed.version != i.age)
        wrong(k, "it reads " + slot + " for weights of " + std::to_string(i.age) + " updates before, and it holds those of " +
                     std::to_string(stage.updates - stashed.version));
      if (stashed.ahead != i.ahead)
        wrong(k, "it reads " + slot + " for weights predicted " + std::to_string(i.ahead) + " updates ahead, and it holds " +
                     std::to_string(stashed.ahead) + " ahead");
      stashed.read = true;
      pass.version = stashed.version, pass.ahead = stashed.ahead;
      // Weights are stashed for a pass to read twice.
      const auto begun = stage.passes.find(i.tag());
      if (!stashed.predicted && begun != stage.passes.end() && begun->second.version != pass.version)
        wrong(k, slot + " holds version " + std::to_string(pass.version) + " and its forward read version " +
                     std::to_string(begun->second.version));
    }
    if (i.reads == Reads::predicted) {
      if (!stage.prediction || stage.updates - stage.prediction->version != i.age)
        wrong(k, i.age == 0 ? "it reads predicted weights and none were predicted since the last step"
                            : "it reads weights predicted " + std::to_string(i.age) + " updates before, and they are not");
      Copy& prediction = *stage.prediction;
      if (prediction.ahead != i.ahead)
        wrong(k, "it reads weights predicted " + std::to_string(i.ahead) + " updates ahead and the last prediction was " +
                     std::to_string(prediction.ahead) + " ahead");
      prediction.read = true;
      pass.version = prediction.version, pass.ahead = prediction.ahead;
    }
    stage.audited.push_back(pass);
    ++stage.clock;
    return pass.version;
  }

  void check_was_read(size_t k, const Copy& copy, const std::string& what) const {
    if (!copy.read) wrong(k, copy.position, "no pass reads what it " + what);
  }

  void check_all_done() const {
    std::string waiting;
    std::vector<AuditFault::Mark> marks;
    for (size_t k = 0; k < stages_.size(); ++k) {
      const Stage& stage = stages_[k];
      if (stage.done()) continue;
      const Instruction& i = stage.next();
      const bool sends = i.operation == Operation::send_activation || i.operation == Operation::send_gradient;
      const bool upward = i.operation == Operation::send_activation || i.operation == Operation::receive_gradient;
      const size_t other = upward ? (k + 1) % stages_.size() : before(k);
      waiting += (waiting.empty() ? "" : "; ") + std::string("stage ") + std::to_string(k) + " waits at instruction " +
                 std::to_string(stage.position) + ", " + text(i) + ", for " + (sends ? "a free place on the link to" : "a message of") +
                 " stage " + std::to_string(other) + (stages_[other].done() ? ", which has finished" : "");
      marks.push_back({int(k), stage.clock});
    }
    if (!waiting.empty()) throw AuditFault("the programs deadlock: " + waiting, passes(), marks);
  }

  // Nothing may be left over when the programs are through.
  void check_all_received() const {
    for (size_t k = 0; k < stages_.size(); ++k) {
      const size_t next = (k + 1) % stages_.size();
      auto check = [&](const Queue& queue, size_t sender, size_t receiver) {
        if (queue.taken.size() < queue.sent.size())
          wrong(sender, queue.sent[queue.taken.size()].position, "stage " + std::to_string(receiver) + " never receives it");
      };
      check(activations_[k], k, next);
      check(gradients_[k], next, k);
    }
  }

  void check_end(size_t k) const {
    const Stage& stage = stages_[k];
    for (const auto& [pass, begun] : stage.passes)
      if (!begun.backward) wrong(k, begun.position, "no backward follows");
    if (stage.gradient)
      wrong(k, stage.program.size() - 1, "the gradient of mini-batch " + std::to_string(*stage.gradient) + " is used by no step");
    if (stage.prediction) check_was_read(k, *stage.prediction, "predicts");
    for (const auto& [slot, stashed] : stage.stash) check_was_read(k, stashed, "stashes");
  }

  int chunks_, most_copies_;
  std::vector<Stage> stages_;
  std::vector<Queue> activations_, gradients_;
};

}  // namespace

Audit audit(const std::vector<Program>& programs, int most_copies) {
  Machine machine(programs, most_copies);
  machine.run();
  Audit audit{.copies = {}, .slots = {}, .frames = {}, .passes = machine.passes(), .steps = machine.steps()};
  const int chunks = pipecast::chunks(programs);
  for (const Program& program : programs) {
    audit.copies.push_back(copies_needed(program));
    audit.slots.push_back(stash_slots(program));
    int frames = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) frames += frames_needed(program, chunk);
    audit.frames.push_back(frames);
  }
  return audit;
}

std::string audit_json(const std::string& method, const Audit& audit) {
  nlohmann::json passes = nlohmann::json::array();
  for (const AuditedPass& pass : audit.passes)
    passes.push_back({{"stage", pass.stage},
                      {"minibatch", pass.minibatch},
                      {"micro", pass.micro},
                      {"chunk", pass.chunk},
                      {"pass", to_string(pass.operation)},
                      {"reads", to_string(pass.reads)},
                      {"version", pass.version},
                      {"ahead", pass.ahead},
                      {"live", pass.live}});
  return nlohmann::json{
      {"method", method}, {"stages", audit.frames.size()}, {"copies", audit.copies}, {"frames", audit.frames}, {"passes", passes}}
      .dump();
}

}  // namespace pipecast
