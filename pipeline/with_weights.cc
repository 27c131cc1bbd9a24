// The copies of the weights that a program needs, from what its passes are to read: first the lifetime of every copy, then the
// instructions.
#include <map>
#include <optional>
#include <set>

#include "pipeline/program.h"

namespace pipecast {
namespace {

// What becomes of the instructions of the plain program, by their positions.
struct Copies {
  std::vector<Wanted> wanted;   // by a pass
  std::vector<Reads> reads;     // by a pass: where that lies
  std::vector<int> slots;       // of the stash, where it lies there
  std::vector<Program> before;  // stashes and predictions that come before the instruction
  std::vector<int> joined;      // to a step: updates predicted ahead; 0: none
};

// Decides for each copy when it is made, where it lies, and until when.
class Lifetimes {
 public:
  Lifetimes(const Program& program, std::vector<Wanted> wanted) : program_(program) {
    const size_t n = program.size();
    copies_ = {std::move(wanted), std::vector<Reads>(n, Reads::latest), std::vector<int>(n), std::vector<Program>(n), std::vector<int>(n)};
    for (size_t p = 0; p < n; ++p)
      if (is_pass(program[p].operation)) last_read_[copies_.wanted[p]] = p;
  }

  Copies decide() {
    int64_t live = 0;
    for (size_t p = 0; p < program_.size(); ++p) {
      const Instruction& i = program_[p];
      // A prediction is made before the stage waits for the message of the pass that reads it.
      const bool receives = i.operation == Operation::receive_activation || i.operation == Operation::receive_gradient;
      const size_t reader = receives ? p + 1 : p;
      if (reader < program_.size() && is_pass(program_[reader].operation)) make(copies_.wanted[reader], p);
      if (is_pass(i.operation)) read(p);
      if (!is_step(i.operation)) continue;
      stash({.version = live}, p);
      ++live;
      step_ = p;
    }
    return std::move(copies_);
  }

 private:
  // Makes the predicted copy for a reader at p, unless it is there.
  void make(const Wanted& wanted, size_t p) {
    if (!wanted.predicted() || wanted == predicted_ || slots_.count(wanted)) return;
    const size_t made = step_.value_or(p);  // the instruction that makes it, or that it comes before
    if (predicted_.version >= 0) stash(predicted_, made);
    const Instruction& reader = program_[p];
    Instruction i{.operation = wanted.back ? Operation::look_back : Operation::predict,
                  .minibatch = reader.minibatch,
                  .micro = reader.micro,
                  .ahead = wanted.ahead,
                  .back = wanted.back,
                  .chunk = reader.chunk};
    if (!step_) copies_.before[p].push_back(i);
    else if (wanted.back) copies_.before[*step_ + 1].insert(copies_.before[*step_ + 1].begin(), i);
    else copies_.joined[*step_] = wanted.ahead;
    predicted_ = wanted;
    step_.reset();
  }

  // What instruction p overwrites goes to a free slot before it, if a pass at p or later reads it.
  void stash(const Wanted& what, size_t p) {
    std::erase_if(slots_, [&](const auto& stashed) { return last_read_.at(stashed.first) < p; });
    const auto reader = last_read_.find(what);
    if (reader == last_read_.end() || reader->second < p) return;
    std::set<int> taken;
    for (const auto& [stashed, slot] : slots_) taken.insert(slot);
    int free = 0;
    while (taken.count(free)) ++free;
    slots_[what] = free;
    const Instruction& at = program_[p];
    copies_.before[p].push_back({.operation = Operation::stash,
                                 .minibatch = at.minibatch,
                                 .micro = at.micro,
                                 .reads = what.predicted() ? Reads::predicted : Reads::latest,
                                 .slot = free,
                                 .chunk = at.chunk});
  }

  void read(size_t p) {
    const Wanted& wanted = copies_.wanted[p];
    if (wanted == predicted_) {
      copies_.reads[p] = Reads::predicted;
      step_.reset();  // what comes next is not written before this pass
    } else if (const auto slot = slots_.find(wanted); slot != slots_.end()) {
      copies_.reads[p] = Reads::stash, copies_.slots[p] = slot->second;
    }
  }

  const Program& program_;
  Copies copies_;
  std::map<Wanted, size_t> last_read_;  // the last pass that reads it
  std::map<Wanted, int> slots_;         // of what is in the stash
  Wanted predicted_{.version = -1};     // what is in the predicted copy; version -1: nothing yet
  std::optional<size_t> step_;          // the last step, while a prediction can still join it
};

// What each pass wants. Other instructions want nothing.
std::vector<Wanted> ask(const Program& program, const std::function<Wanted(const Reader&)>& wanted) {
  const std::vector<int> lags = true_lags(program);
  std::map<Tag, int> lag;
  std::vector<Wanted> wants(program.size());
  int64_t live = 0;
  size_t forward = 0;
  for (size_t p = 0; p < program.size(); ++p) {
    const Instruction& i = program[p];
    if (i.operation == Operation::forward) lag[i.tag()] = lags[forward++];
    if (is_pass(i.operation)) wants[p] = wanted({i, live, lag[i.tag()]});
    if (is_step(i.operation)) ++live;
  }
  return wants;
}

}  // namespace

Program with_weights(const Program& plain, const std::function<Wanted(const Reader&)>& wanted) {
  const Copies copies = Lifetimes(plain, ask(plain, wanted)).decide();
  Program program;
  int64_t live = 0;
  for (size_t p = 0; p < plain.size(); ++p) {
    program.insert(program.end(), copies.before[p].begin(), copies.before[p].end());
    Instruction i = plain[p];
    if (is_step(i.operation)) ++live;
    if (copies.joined[p] != 0) i.operation = Operation::step_and_predict, i.ahead = copies.joined[p];
    if (copies.reads[p] != Reads::latest) {
      const Wanted& want = copies.wanted[p];
      i.reads = copies.reads[p], i.slot = copies.slots[p];
      i.ahead = want.ahead, i.back = want.back, i.age = int(live - want.version);
    }
    program.push_back(i);
  }
  return program;
}

}  // namespace pipecast
