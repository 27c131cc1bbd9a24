#include "pipeline/program.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace pipecast {
namespace {

using Pass = std::pair<int64_t, int>;  // mini-batch, micro-batch
Pass pass_of(const Instruction& i) { return {i.minibatch, i.micro}; }

}  // namespace

std::string to_string(Operation operation) {
  switch (operation) {
    case Operation::receive_activation: return "receive_activation";
    case Operation::forward: return "forward";
    case Operation::send_activation: return "send_activation";
    case Operation::receive_gradient: return "receive_gradient";
    case Operation::backward: return "backward";
    case Operation::send_gradient: return "send_gradient";
    case Operation::step: return "step";
    case Operation::predict: return "predict";
    case Operation::stash: return "stash";
  }
  return "?";
}

std::string to_string(Reads reads) {
  switch (reads) {
    case Reads::latest: return "latest";
    case Reads::predicted: return "predicted";
    case Reads::stash: return "stash";
  }
  return "?";
}

Program one_forward_one_backward(const Setting& setting, int stage) {
  const int micro_batches = setting.micro_batches, last = setting.stages - 1;
  const int64_t passes = setting.minibatches * micro_batches;
  const int64_t warm_up = std::min<int64_t>(last - stage, passes);

  Program program;
  auto add = [&](Operation operation, int64_t pass) {
    program.push_back({.operation = operation, .minibatch = pass / micro_batches, .micro = int(pass % micro_batches)});
  };
  auto forward = [&](int64_t pass) {
    add(Operation::receive_activation, pass);
    add(Operation::forward, pass);
    if (stage < last) add(Operation::send_activation, pass);
  };
  auto backward = [&](int64_t pass) {
    if (stage < last) add(Operation::receive_gradient, pass);
    add(Operation::backward, pass);
    if (stage > 0) add(Operation::send_gradient, pass);
    if (pass % micro_batches == micro_batches - 1) add(Operation::step, pass);
  };

  for (int64_t pass = 0; pass < warm_up; ++pass) forward(pass);
  for (int64_t pass = 0; pass < passes; ++pass) {
    if (warm_up + pass < passes) forward(warm_up + pass);
    backward(pass);
  }
  return program;
}

Program forward_then_backward(const Setting& setting, int stage) {
  const int last = setting.stages - 1;
  Program program;
  for (int64_t minibatch = 0; minibatch < setting.minibatches; ++minibatch) {
    auto add = [&](Operation operation, int micro) { program.push_back({.operation = operation, .minibatch = minibatch, .micro = micro}); };
    for (int micro = 0; micro < setting.micro_batches; ++micro) {
      add(Operation::receive_activation, micro);
      add(Operation::forward, micro);
      if (stage < last) add(Operation::send_activation, micro);
    }
    for (int micro = setting.micro_batches - 1; micro >= 0; --micro) {
      if (stage < last) add(Operation::receive_gradient, micro);
      add(Operation::backward, micro);
      if (stage > 0) add(Operation::send_gradient, micro);
    }
    add(Operation::step, 0);
  }
  return program;
}

Program with_versions(const Program& plain, const std::function<int64_t(int64_t, int64_t)>& version) {
  // The version of every pass, and the last place where each version is read.
  std::map<Pass, int64_t> versions;
  std::map<int64_t, size_t> last_read;
  int64_t live = 0;
  for (size_t p = 0; p < plain.size(); ++p) {
    const Instruction& i = plain[p];
    if (i.operation == Operation::forward) versions[pass_of(i)] = version(i.minibatch, live);
    if (i.operation == Operation::forward || i.operation == Operation::backward) last_read[versions[pass_of(i)]] = p;
    if (i.operation == Operation::step) ++live;
  }

  Program program;
  std::map<int64_t, int> slots;  // of the versions in the stash
  live = 0;
  for (size_t p = 0; p < plain.size(); ++p) {
    Instruction i = plain[p];
    if (i.operation == Operation::forward || i.operation == Operation::backward) {
      const int64_t read = versions[pass_of(i)];
      if (read != live) i.reads = Reads::stash, i.slot = slots.at(read);
    } else if (i.operation == Operation::step) {
      for (auto slot = slots.begin(); slot != slots.end();) slot = last_read[slot->first] < p ? slots.erase(slot) : std::next(slot);
      const auto reader = last_read.find(live);
      if (reader != last_read.end() && reader->second > p) {
        std::set<int> taken;
        for (const auto& [stashed, slot] : slots) taken.insert(slot);
        int free = 0;
        while (taken.count(free)) ++free;
        slots[live] = free;
        program.push_back({.operation = Operation::stash, .minibatch = i.minibatch, .micro = i.micro, .slot = free});
      }
      ++live;
    }
    program.push_back(i);
  }
  return program;
}

std::vector<int> true_lags(const Program& program) {
  struct Begun {
    size_t index;  // among the forwards
    int steps;     // done before it
  };
  std::map<Pass, Begun> begun;
  std::vector<int> lags;
  int steps = 0;
  for (const Instruction& i : program) {
    if (i.operation == Operation::forward) {
      begun[pass_of(i)] = {lags.size(), steps};
      lags.push_back(0);
    } else if (i.operation == Operation::backward) {
      auto forward = begun.find(pass_of(i));
      if (forward != begun.end()) lags[forward->second.index] = steps - forward->second.steps;
    } else if (i.operation == Operation::step) {
      ++steps;
    }
  }
  return lags;
}

int frames_needed(const Program& program) {
  std::set<Pass> with_backward;
  for (const Instruction& i : program)
    if (i.operation == Operation::backward) with_backward.insert(pass_of(i));
  int in_flight = 0, most = 0;
  for (const Instruction& i : program) {
    if (i.operation == Operation::forward) {
      most = std::max(most, in_flight + 1);
      if (with_backward.count(pass_of(i))) ++in_flight;  // nothing to keep of a pass that has none, as in evaluation
    } else if (i.operation == Operation::backward) {
      --in_flight;
    }
  }
  return most;
}

bool predicts(const Program& program) {
  return std::any_of(program.begin(), program.end(), [](const Instruction& i) { return i.operation == Operation::predict; });
}

int stash_slots(const Program& program) {
  int slots = 0;
  for (const Instruction& i : program)
    if (i.operation == Operation::stash) slots = std::max(slots, i.slot + 1);
  return slots;
}

int copies_needed(const Program& program) { return 1 + (predicts(program) ? 1 : 0) + stash_slots(program); }

Program evaluation_program(int stages, int64_t batches, int stage) {
  Program program;
  for (int64_t batch = 0; batch < batches; ++batch) {
    program.push_back({.operation = Operation::receive_activation, .minibatch = batch});
    program.push_back({.operation = Operation::forward, .minibatch = batch});
    if (stage < stages - 1) program.push_back({.operation = Operation::send_activation, .minibatch = batch});
  }
  return program;
}

}  // namespace pipecast
