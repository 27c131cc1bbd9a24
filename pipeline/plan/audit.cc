#include "pipeline/plan/audit.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "pipeline/plan/audited_copies.h"
#include "pipeline/plan/walker.h"

namespace pipecast {
namespace {

std::string text(const Instruction& i) { return to_string(i.operation) + " of " + to_string(i.tag()); }

// Follows the stages with their clocks. A pass takes one tick, everything else none.
class Auditor : public Visitor {
 public:
  Auditor(const std::vector<Program>& programs, const Channels& channels, int most_copies)
      : channels_(channels), times_(channels.all().size()) {
    for (const Program& program : programs) stages_.emplace_back(program, most_copies);
  }

  void reach(int k, size_t position) override {
    at(k).position = position;
    if (next(k).chunk < 0) wrong(k, "the chunk is below 0");
    check_neighbours(k);
  }

  void receive(int k, size_t, const Message& expected, const Tag& arrived, int64_t number) override {
    if (arrived != expected.pass) wrong(k, "the message that arrives is that of " + to_string(arrived));
    Times& times = times_[size_t(expected.channel)];
    at(k).clock = std::max(at(k).clock, times.sent[size_t(number)]);
    times.received.push_back(at(k).clock);
  }

  void send(int k, size_t, const Message& message, int64_t number) override {
    Times& times = times_[size_t(message.channel)];
    const int64_t capacity = channels_.all()[size_t(message.channel)].capacity;
    if (number >= capacity) at(k).clock = std::max(at(k).clock, times.received[size_t(number - capacity)]);
    times.sent.push_back(at(k).clock);
  }

  void carry_out(int k, size_t) override {
    try {
      carry_out(k, next(k));
    } catch (const CopyFault& fault) {
      wrong(k, fault.position.value_or(at(k).position), fault.what);
    }
  }

  // Nothing may be left over when the programs are through.
  void check_end(const WalkEnd& end) const {
    if (!end.waiting.empty()) deadlock(end.waiting);
    if (!end.unreceived.empty()) {
      const Channel& channel = channels_.all()[size_t(end.unreceived.front().channel)];
      wrong(channel.from, end.unreceived.front().position, "stage " + std::to_string(channel.to) + " never receives it");
    }
    for (int k = 0; k < int(stages_.size()); ++k) check_end(k);
  }

  std::vector<AuditedPass> passes() const { return of_all(&Stage::audited); }
  std::vector<AuditedStep> steps() const { return of_all(&Stage::steps); }

 private:
  struct Begun {
    size_t position;  // of its forward
    int64_t version;  // that it read
    bool kept;        // its activations are there
    bool backward = false, awaits_weight_half = false;
  };
  struct Stage {
    Stage(const Program& p, int most_copies) : program(p), copies(most_copies) {}
    const Program& program;
    AuditedCopies copies;
    size_t position = 0;
    int64_t clock = 0;
    std::map<Tag, Begun> passes = {};
    int awaiting_weight_half = 0;
    std::optional<int64_t> gradient = {};  // the mini-batch whose gradient has accumulated since the last update
    std::vector<AuditedPass> audited = {};
    std::vector<AuditedStep> steps = {};
  };
  // Of the messages of a channel.
  struct Times {
    std::vector<int64_t> sent, received;
  };

  template <class T>
  std::vector<T> of_all(std::vector<T> Stage::*member) const {
    std::vector<T> all;
    for (const Stage& stage : stages_) all.insert(all.end(), (stage.*member).begin(), (stage.*member).end());
    return all;
  }

  Stage& at(int k) { return stages_[size_t(k)]; }
  const Instruction& next(int k) const { return stages_[size_t(k)].program[stages_[size_t(k)].position]; }

  [[noreturn]] void wrong(int k, size_t position, const std::string& what) const {
    const Stage& stage = stages_[size_t(k)];
    throw AuditFault("the program of stage " + std::to_string(k) + " is wrong at instruction " + std::to_string(position) + ", " +
                         text(stage.program[position]) + ": " + what,
                     passes(), {{k, stage.clock}});
  }
  [[noreturn]] void wrong(int k, const std::string& what) const { wrong(k, stages_[size_t(k)].position, what); }

  // Whether the instruction beside this one (before: -1, after: +1) is such an operation of the same pass.
  template <class Is>
  bool beside(int k, int where, Is is) const {
    const Stage& stage = stages_[size_t(k)];
    const size_t other = stage.position + size_t(where);  // past the end also where it is before the beginning
    return other < stage.program.size() && is(stage.program[other].operation) && stage.program[other].tag() == next(k).tag();
  }
  static auto is(Operation operation) {
    return [operation](Operation other) { return other == operation; };
  }

  // What is received is used at once, and what is made is sent at once.
  void check_neighbours(int k) const {
    const Instruction& i = next(k);
    const bool has_after = channels_.after({k, i.tag()}).has_value(), has_before = channels_.before({k, i.tag()}).has_value();
    switch (i.operation) {
      case Operation::receive_activation:
        if (!beside(k, +1, is(Operation::forward))) wrong(k, "the forward of this pass does not follow directly");
        break;
      case Operation::forward:
        if (!beside(k, -1, is(Operation::receive_activation)))
          wrong(k, "the receive_activation of this pass does not stand directly before it");
        break;
      case Operation::send_activation:
        if (!has_after) wrong(k, "there is no stage after it");
        if (!beside(k, -1, is(Operation::forward))) wrong(k, "the forward of this pass does not stand directly before it");
        break;
      case Operation::receive_gradient:
        if (!has_after) wrong(k, "there is no stage after it");
        if (!beside(k, +1, is_backward)) wrong(k, "the backward of this pass does not follow directly");
        break;
      case Operation::send_gradient:
        if (!has_before) wrong(k, "there is no stage before it");
        if (!beside(k, -1, is_backward)) wrong(k, "the backward of this pass does not stand directly before it");
        break;
      default: break;
    }
  }

  void carry_out(int k, const Instruction& i) {
    Stage& stage = at(k);
    switch (i.operation) {
      case Operation::receive_activation:
      case Operation::send_activation:
      case Operation::receive_gradient:
      case Operation::send_gradient: break;
      case Operation::forward:
        if (stage.passes.count(i.tag())) wrong(k, "it has run before");
        stage.passes[i.tag()] = {stage.position, record(k, i), i.keep};
        break;
      case Operation::recompute: recompute(k, i); break;
      case Operation::backward:
      case Operation::backward_input: backward(k, i); break;
      case Operation::backward_weight: weight_half(k, i); break;
      case Operation::step: step(k, i); break;
      case Operation::step_and_predict:
        step(k, i);
        stage.copies.predict(stage.position, i);
        break;
      case Operation::predict:
      case Operation::look_back: stage.copies.predict(stage.position, i); break;
      case Operation::stash: stage.copies.stash(stage.position, i); break;
    }
  }

  Begun& begun(int k, const Instruction& i) {
    const auto found = at(k).passes.find(i.tag());
    if (found == at(k).passes.end()) wrong(k, "it comes before its forward");
    return found->second;
  }

  void recompute(int k, const Instruction& i) {
    Begun& pass = begun(k, i);
    if (pass.kept) wrong(k, "the activations are still there");
    pass.kept = true;
    record(k, i);
  }

  void backward(int k, const Instruction& i) {
    Stage& stage = at(k);
    Begun& pass = begun(k, i);
    if (channels_.after({k, i.tag()}) && !beside(k, -1, is(Operation::receive_gradient)))
      wrong(k, "the receive_gradient of this pass does not stand directly before it");
    if (pass.backward) wrong(k, "it has run before");
    if (!pass.kept) wrong(k, "its forward kept no activations and no recompute has made them again");
    if (stage.gradient && *stage.gradient != i.minibatch)
      wrong(k, "the gradient of mini-batch " + std::to_string(*stage.gradient) + " has not been used by a step yet");
    pass.backward = true;
    if (i.operation == Operation::backward_input) pass.awaits_weight_half = true, ++stage.awaiting_weight_half;
    stage.gradient = i.minibatch;
    record(k, i);
  }

  void weight_half(int k, const Instruction& i) {
    const auto found = at(k).passes.find(i.tag());
    if (found == at(k).passes.end() || !found->second.awaits_weight_half) wrong(k, "no backward_input of this pass waits for it");
    found->second.awaits_weight_half = false, --at(k).awaiting_weight_half;
    record(k, i);
  }

  void step(int k, const Instruction& i) {
    Stage& stage = at(k);
    if (!stage.gradient) wrong(k, "no backward has run since the last step");
    if (*stage.gradient != i.minibatch) wrong(k, "the gradient is that of mini-batch " + std::to_string(*stage.gradient));
    if (stage.awaiting_weight_half > 0) wrong(k, std::to_string(stage.awaiting_weight_half) + " backward_weight of its passes have not run");
    stage.gradient.reset();
    stage.copies.step();
    stage.steps.push_back({k, i.scale, i.late, stage.clock});
  }

  // A pass: which weights does it read? Returns their version.
  int64_t record(int k, const Instruction& i) {
    Stage& stage = at(k);
    const AuditedCopies::Content content = stage.copies.read(i);
    // Weights are stashed for a pass to read twice.
    const auto forward = stage.passes.find(i.tag());
    if (i.reads == Reads::stash && !content.predicted && forward != stage.passes.end() && forward->second.version != content.version)
      wrong(k, "slot " + std::to_string(i.slot) + " of the stash holds version " + std::to_string(content.version) +
                   " and its forward read version " + std::to_string(forward->second.version));
    stage.audited.push_back({.stage = k,
                             .minibatch = i.minibatch,
                             .micro = i.micro,
                             .chunk = i.chunk,
                             .operation = i.operation,
                             .reads = i.reads,
                             .version = content.version,
                             .ahead = content.ahead - content.back,
                             .live = stage.copies.updates(),
                             .time = stage.clock++});
    return content.version;
  }

  [[noreturn]] void deadlock(const std::vector<WalkEnd::Waiting>& waiting) const {
    std::string sentence;
    std::vector<AuditFault::Mark> marks;
    for (const auto& [k, position, message] : waiting) {
      const Channel& channel = channels_.all()[size_t(message.channel)];
      const int other = channel.from;  // a channel has as many places as the programs need
      const bool finished = std::none_of(waiting.begin(), waiting.end(), [other](const auto& w) { return w.stage == other; });
      sentence += (sentence.empty() ? "" : "; ") + std::string("stage ") + std::to_string(k) + " waits at instruction " +
                  std::to_string(position) + ", " + text(stages_[size_t(k)].program[position]) + ", for a message of stage " + std::to_string(other) +
                  (finished ? ", which has finished" : "");
      marks.push_back({k, stages_[size_t(k)].clock});
    }
    throw AuditFault("the programs deadlock: " + sentence, passes(), marks);
  }

  void check_end(int k) const {
    const Stage& stage = stages_[size_t(k)];
    for (const auto& [pass, begun] : stage.passes)
      if (!begun.backward) wrong(k, begun.position, "no backward follows");
    if (stage.gradient)
      wrong(k, stage.program.size() - 1, "the gradient of mini-batch " + std::to_string(*stage.gradient) + " is used by no step");
    try {
      stage.copies.check_all_read();
    } catch (const CopyFault& fault) {
      wrong(k, *fault.position, fault.what);
    }
  }

  const Channels& channels_;
  std::vector<Stage> stages_;
  std::vector<Times> times_;
};

}  // namespace

Audit audit(const std::vector<Program>& programs, int most_copies) {
  const Channels channels(programs);
  Auditor auditor(programs, channels, most_copies);
  auditor.check_end(walk(programs, channels, auditor));
  Audit audit{.copies = {}, .slots = {}, .frames = {}, .passes = auditor.passes(), .steps = auditor.steps()};
  for (const Program& program : programs) {
    audit.copies.push_back(copies_needed(program));
    audit.slots.push_back(stash_slots(program));
    int frames = 0;
    for (int chunk = 0; chunk < channels.chunks(); ++chunk) frames += frames_needed(program, chunk);
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
