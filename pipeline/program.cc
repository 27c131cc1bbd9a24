#include "pipeline/program.h"

#include <algorithm>
#include <map>
#include <utility>

#include "engine/error.h"

namespace pipecast {

std::string to_string(Operation operation) {
  switch (operation) {
    case Operation::receive_activation: return "receive_activation";
    case Operation::forward: return "forward";
    case Operation::send_activation: return "send_activation";
    case Operation::receive_gradient: return "receive_gradient";
    case Operation::backward: return "backward";
    case Operation::backward_input: return "backward_input";
    case Operation::backward_weight: return "backward_weight";
    case Operation::send_gradient: return "send_gradient";
    case Operation::recompute: return "recompute";
    case Operation::step: return "step";
    case Operation::step_and_predict: return "step_and_predict";
    case Operation::predict: return "predict";
    case Operation::look_back: return "look_back";
    case Operation::stash: return "stash";
  }
  return "?";
}

std::string to_string(const Tag& tag) {
  return "mini-batch " + std::to_string(tag.minibatch) + "." + std::to_string(tag.micro) +
         (tag.chunk > 0 ? ", chunk " + std::to_string(tag.chunk) : "");
}

std::string to_string(Reads reads) {
  switch (reads) {
    case Reads::latest: return "latest";
    case Reads::predicted: return "predicted";
    case Reads::stash: return "stash";
  }
  return "?";
}

std::vector<std::string> recompute_modes() { return {"never", "except-last", "always"}; }

std::string to_string(Recompute mode) { return recompute_modes()[size_t(mode)]; }

Recompute recompute_mode(const std::string& name) {
  const std::vector<std::string> modes = recompute_modes();
  const auto found = std::find(modes.begin(), modes.end(), name);
  if (found == modes.end()) throw UsageError(unknown_name("recomputation", name, modes));
  return Recompute(found - modes.begin());
}

bool is_backward(Operation operation) { return operation == Operation::backward || operation == Operation::backward_input; }

bool is_pass(Operation operation) {
  return operation == Operation::forward || operation == Operation::recompute || is_backward(operation);
}

bool is_step(Operation operation) { return operation == Operation::step || operation == Operation::step_and_predict; }

bool makes_prediction(Operation operation) { return operation == Operation::predict || operation == Operation::step_and_predict; }

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

Program one_by_one(const Setting& setting, int stage, Program (*of_one)(const Setting&, int stage)) {
  Setting one = setting;
  one.minibatches = 1;
  const Program of_first = of_one(one, stage);
  Program program;
  for (int64_t minibatch = 0; minibatch < setting.minibatches; ++minibatch) append(program, of_first, minibatch);
  return program;
}

Program with_recomputation(const Program& program, Recompute mode, int micro_batches) {
  auto recomputes = [&](const Instruction& i) {
    return mode == Recompute::always || (mode == Recompute::except_last && i.micro < micro_batches - 1);
  };
  Program result;
  for (size_t p = 0; p < program.size(); ++p) {
    const Instruction& i = program[p];
    // Before the gradient is waited for.
    const bool receives = i.operation == Operation::receive_gradient;
    const bool alone = p == 0 || program[p - 1].operation != Operation::receive_gradient;
    if (recomputes(i) && (receives || (is_backward(i.operation) && alone))) {
      Instruction again = program[receives ? p + 1 : p];
      again.operation = Operation::recompute;
      result.push_back(again);
    }
    result.push_back(i);
    if (i.operation == Operation::forward && recomputes(i)) result.back().keep = false;
  }
  return result;
}

void append(Program& program, const Program& more, int64_t first_minibatch) {
  for (Instruction i : more) {
    i.minibatch += first_minibatch;
    program.push_back(i);
  }
}

std::vector<int> true_lags(const Program& program) {
  struct Begun {
    size_t index;  // among the forwards
    int steps;     // done before it
  };
  std::map<Tag, Begun> begun;
  std::vector<int> lags;
  int steps = 0;
  for (const Instruction& i : program) {
    if (i.operation == Operation::forward) {
      begun[i.tag()] = {lags.size(), steps};
      lags.push_back(0);
    } else if (is_backward(i.operation)) {
      auto forward = begun.find(i.tag());
      if (forward != begun.end()) lags[forward->second.index] = steps - forward->second.steps;
    } else if (is_step(i.operation)) {
      ++steps;
    }
  }
  return lags;
}

int staleness(const Program& program) {
  std::map<Tag, int> read;  // the version, by the forwards
  int updates = 0, most = 0;
  for (const Instruction& i : program) {
    if (i.operation == Operation::forward) read[i.tag()] = updates - i.age;
    if (is_backward(i.operation)) most = std::max(most, updates - read[i.tag()]);
    if (is_step(i.operation)) ++updates;
  }
  return most;
}

bool is_synchronous(const std::vector<Program>& programs) {
  for (const Program& program : programs) {
    int64_t updates = 0;
    for (const Instruction& i : program) {
      if (is_pass(i.operation) && (i.reads != Reads::latest || i.minibatch != updates)) return false;
      if (is_step(i.operation)) ++updates;
    }
  }
  return true;
}

int64_t minibatches(const std::vector<Program>& programs) {
  int64_t count = 0;
  for (const Program& program : programs)
    for (const Instruction& i : program) count = std::max(count, i.minibatch + 1);
  return count;
}

int chunks(const std::vector<Program>& programs) {
  int count = 1;
  for (const Program& program : programs)
    for (const Instruction& i : program) count = std::max(count, i.chunk + 1);
  return count;
}

int frames_needed(const Program& program, int chunk) {
  std::map<Tag, Operation> last_use;  // of a pass's activations
  for (const Instruction& i : program)
    if (i.chunk == chunk && (is_backward(i.operation) || i.operation == Operation::backward_weight)) last_use[i.tag()] = i.operation;
  int in_flight = 0, most = 0;
  for (const Instruction& i : program) {
    if (i.chunk != chunk) continue;
    const auto use = last_use.find(i.tag());
    const bool used_later = use != last_use.end();  // not in evaluation, which has no backward
    if (i.operation == Operation::forward || i.operation == Operation::recompute) {
      most = std::max(most, in_flight + 1);
      if (used_later && i.keep) ++in_flight;
    } else if (used_later && use->second == i.operation) {
      --in_flight;
    }
  }
  return most;
}

int inputs_needed(const Program& program, int chunk) {
  int in_flight = 0, most = 0;
  for (const Instruction& i : program) {
    if (i.chunk != chunk) continue;
    if (i.operation == Operation::forward && !i.keep) most = std::max(most, ++in_flight);
    if (i.operation == Operation::recompute) --in_flight;
  }
  return most;
}

bool splits_backward(const Program& program) {
  return std::any_of(program.begin(), program.end(), [](const Instruction& i) { return i.operation == Operation::backward_input; });
}

bool predicts(const Program& program) {
  return std::any_of(program.begin(), program.end(), [](const Instruction& i) {
    return makes_prediction(i.operation) || i.operation == Operation::look_back;
  });
}

bool looks_back(const Program& program) {
  return std::any_of(program.begin(), program.end(), [](const Instruction& i) { return i.operation == Operation::look_back; });
}

int stash_slots(const Program& program) {
  int slots = 0;
  for (const Instruction& i : program)
    if (i.operation == Operation::stash) slots = std::max(slots, i.slot + 1);
  return slots;
}

int copies_needed(const Program& program) { return 1 + (predicts(program) ? 1 : 0) + stash_slots(program); }

Program evaluation_program(const Setting& setting, int64_t batches, int stage) {
  const int chunks = std::max(1, setting.chunks);
  Program program;
  for (int64_t batch = 0; batch < batches; ++batch)
    for (int micro = 0; micro < setting.micro_batches; ++micro)
      for (int chunk = 0; chunk < chunks; ++chunk) {
        auto add = [&](Operation operation) {
          program.push_back({.operation = operation, .minibatch = batch, .micro = micro, .chunk = chunk});
        };
        add(Operation::receive_activation);
        add(Operation::forward);
        if (stage < setting.stages - 1 || chunk < chunks - 1) add(Operation::send_activation);
      }
  return program;
}

}  // namespace pipecast
