#pragma once
// What the drawings of an audit as text and as SVG have in common.
#include <map>
#include <set>
#include <string>
#include <vector>

#include "pipeline/plan/audit.h"

namespace pipecast {

inline std::string number(int64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

// A kind of pass: its letter and its shade.
struct Kind {
  std::string letter, meaning;
  int saturation, lightness;  // percent
};
inline const Kind& kind(Operation operation) {
  static const std::map<Operation, Kind> kinds = {
      {Operation::forward, {"F", "forward", 55, 83}},
      {Operation::recompute, {"R", "forward once more (recompute)", 45, 92}},
      {Operation::backward, {"B", "backward", 45, 62}},
      {Operation::backward_input, {"I", "input half of the backward", 45, 62}},
      {Operation::backward_weight, {"W", "weight half of the backward", 30, 74}},
  };
  return kinds.at(operation);
}

// What there is to say of all passes together.
struct Summary {
  int64_t minibatches = 0, end = 0;  // of time
  int micro_batches = 1;
  int last_chunk = 0, most_ahead = 0, least_ahead = 0;
  std::set<Operation> kinds;
  bool stash = false, ages = false;

  explicit Summary(const std::vector<AuditedPass>& passes) {
    for (const AuditedPass& pass : passes) {
      minibatches = std::max(minibatches, pass.minibatch + 1);
      end = std::max(end, pass.time + 1);
      micro_batches = std::max(micro_batches, pass.micro + 1);
      last_chunk = std::max(last_chunk, pass.chunk);
      most_ahead = std::max(most_ahead, pass.ahead);
      least_ahead = std::min(least_ahead, pass.ahead);
      kinds.insert(pass.operation);
      stash = stash || pass.reads == Reads::stash;
      ages = ages || (pass.reads == Reads::predicted && pass.live > pass.version);
    }
  }
  // "F3", with micro-batches "F3.1", on chunk 2 "F3.1c2".
  std::string label(const AuditedPass& pass) const {
    return kind(pass.operation).letter + std::to_string(pass.minibatch) + (micro_batches > 1 ? "." + std::to_string(pass.micro) : "") +
           (pass.chunk > 0 ? "c" + std::to_string(pass.chunk) : "");
  }
  // The letters that occur.
  std::string letters() const {
    std::string text;
    for (Operation operation : kinds) text += (text.empty() ? "" : ", ") + kind(operation).letter + ": " + kind(operation).meaning;
    return text + " of a mini-batch" + (micro_batches > 1 ? ".micro-batch" : "") +
           (last_chunk > 0 ? ", c1: on chunk 1, else on chunk 0" : "");
  }
};

// The weight half of a backward reads activations alone.
inline bool reads_weights(const AuditedPass& pass) { return pass.operation != Operation::backward_weight; }

inline bool predicted(const AuditedPass& pass) { return pass.reads == Reads::predicted || pass.ahead != 0; }

// "v0+3"
inline std::string version(const AuditedPass& pass) {
  return "v" + std::to_string(pass.version) + (predicted(pass) ? (pass.ahead < 0 ? "" : "+") + std::to_string(pass.ahead) : "");
}

// A drawing of nothing but dots is of no use and fills the disk.
inline void check_size(size_t stages, int64_t end) {
  if (stages * size_t(end) > 1 << 22)
    throw UsageError("a timeline of " + std::to_string(stages) + " stages and " + std::to_string(end) +
                     " passes in time is too large to draw; draw fewer mini-batches, or take audit --json");
}

}  // namespace pipecast
