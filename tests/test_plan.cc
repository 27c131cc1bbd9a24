// The plan: what programs the methods yield, which weights each pass reads, and what the audit refuses.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <tuple>

#include "engine/error.h"
#include "pipeline/audit.h"
#include "pipeline/draw.h"
#include "pipeline/program.h"

using namespace pipecast;

namespace {

using Pass = std::pair<int64_t, int>;
Tag pass_of(const Instruction& i) { return i.tag(); }

const std::vector<LookAheadMode> modes = {LookAheadMode::paper, LookAheadMode::released, LookAheadMode::exact, LookAheadMode::decayed};

// Calls check(setting) for the sizes that matter: fewer mini-batches than stages, none, one stage, one micro-batch, many.
template <class Check>
void for_all_settings(Check check) {
  for (int stages : {1, 2, 3, 4, 5, 6, 16})
    for (int64_t minibatches : {0, 1, 2, 3, 5, 8, 13})
      for (int micro_batches : {1, 2, 3})
        for (LookAheadMode mode : modes) {
          CAPTURE(stages);
          CAPTURE(minibatches);
          CAPTURE(micro_batches);
          CAPTURE(to_string(mode));
          check(Setting{stages, minibatches, micro_batches, mode});
        }
}

std::string error_of(const std::vector<Program>& programs) {
  try {
    audit(programs);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// One pass as the rule of the method has it, found without any program.
struct Expected {
  int64_t minibatch;
  int micro;
  bool backward;
  int64_t live, time;
};

// A pipeline of workers on a clock. They know no schedule, only the rule of 1F1B with asynchronous updates: stage k may have
// stages - k passes in flight, starts the next forward as soon as it may and its input is there, and else the next backward
// whose gradient is there. A message sent in one tick can be used in the next. When all micro-batches of a mini-batch are
// through the backward of a stage, its gradient is applied there at once.
std::vector<std::vector<Expected>> simulate(int stages, int64_t minibatches, int micro_batches) {
  const int64_t passes = minibatches * micro_batches;
  struct Worker {
    int64_t inputs = 0, gradients = 0;    // that have arrived
    int64_t forwards = 0, backwards = 0;  // done
    std::map<int64_t, int> backed;        // micro-batches by mini-batch
    std::set<int64_t> applied;            // mini-batches whose gradient is in the weights
    std::vector<Expected> log;
  };
  std::vector<Worker> workers(stages);
  workers[0].inputs = passes;
  for (int64_t time = 0; workers[0].backwards < passes; ++time) {
    REQUIRE(time < 100 * (passes + stages));
    std::vector<Worker*> inputs, gradients;  // who gets a message at the end of this tick
    for (int k = 0; k < stages; ++k) {
      Worker& worker = workers[k];
      const bool last = k == stages - 1;
      if (last) worker.gradients = worker.forwards;  // the loss needs no messenger
      const bool may_forward = worker.forwards - worker.backwards < stages - k && worker.forwards < worker.inputs;
      const bool may_backward = worker.backwards < worker.gradients;
      if (!may_forward && !may_backward) continue;
      const int64_t pass = may_forward ? worker.forwards++ : worker.backwards++;
      const int64_t minibatch = pass / micro_batches;
      worker.log.push_back({minibatch, int(pass % micro_batches), !may_forward, int64_t(worker.applied.size()), time});
      if (may_forward) {
        if (!last) inputs.push_back(&workers[k + 1]);
      } else {
        if (k > 0) gradients.push_back(&workers[k - 1]);
        if (++worker.backed[minibatch] == micro_batches) worker.applied.insert(minibatch);
      }
    }
    for (Worker* worker : inputs) ++worker->inputs;
    for (Worker* worker : gradients) ++worker->gradients;
  }
  std::vector<std::vector<Expected>> logs;
  for (Worker& worker : workers) logs.push_back(worker.log);
  return logs;
}

// "latest v3" or "predicted v0+3" per forward of one stage, from the audit.
std::vector<std::string> forward_reads(const Audit& audit, int stage) {
  std::vector<std::string> reads;
  for (const AuditedPass& pass : audit.passes)
    if (pass.stage == stage && !pass.backward())
      reads.push_back("v" + std::to_string(pass.version) + (pass.reads == Reads::predicted ? "+" + std::to_string(pass.ahead) : ""));
  return reads;
}

std::vector<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::vector<Program> programs_of(const std::string& method, const Setting& setting) { return make_programs(find_method(method), setting); }

// The index of the n-th instruction of a kind.
size_t find(const Program& program, Operation operation, int n = 0) {
  for (size_t i = 0; i < program.size(); ++i)
    if (program[i].operation == operation && n-- == 0) return i;
  FAIL("no such instruction");
  return 0;
}

}  // namespace

TEST_CASE("the version tables are those of a pipeline simulated from the rule") {
  for_all_settings([](const Setting& setting) {
    const auto expected = simulate(setting.stages, setting.minibatches, setting.micro_batches);
    for (const std::string method : {"vanilla", "pipeoptim"}) {
      CAPTURE(method);
      const Audit result = audit(programs_of(method, setting));
      size_t next = 0;
      for (int k = 0; k < setting.stages; ++k) {
        CAPTURE(k);
        std::map<Pass, int64_t> live_at_backward;
        for (const Expected& pass : expected[k])
          if (pass.backward) live_at_backward[{pass.minibatch, pass.micro}] = pass.live;
        int copies = 1;
        for (const Expected& pass : expected[k]) {
          REQUIRE(next < result.passes.size());
          const AuditedPass& found = result.passes[next++];
          CAPTURE(pass.minibatch);
          CAPTURE(pass.micro);
          CAPTURE(pass.backward);
          int ahead = 0;
          if (method == "pipeoptim" && !pass.backward) {
            if (setting.look_ahead == LookAheadMode::paper) ahead = setting.stages - 1 - k;
            else if (setting.look_ahead == LookAheadMode::released) ahead = setting.stages - k;
            else ahead = int(live_at_backward.at({pass.minibatch, pass.micro}) - pass.live);
          }
          if (ahead > 0) copies = 2;
          REQUIRE(found.stage == k);
          REQUIRE(found.minibatch == pass.minibatch);
          REQUIRE(found.micro == pass.micro);
          REQUIRE(found.backward() == pass.backward);
          REQUIRE(found.reads == (ahead > 0 ? Reads::predicted : Reads::latest));
          REQUIRE(found.ahead == ahead);
          REQUIRE(found.version == pass.live);  // every prediction starts from the newest weights
          REQUIRE(found.live == pass.live);
          REQUIRE(found.time == pass.time);
        }
        REQUIRE(result.copies[k] == copies);
        REQUIRE(result.frames[k] == std::min<int64_t>(setting.stages - k, setting.minibatches * setting.micro_batches));
      }
      REQUIRE(next == result.passes.size());
    }
  });
}

TEST_CASE("the version table of four stages and eight mini-batches, written by hand") {
  const std::vector<std::string> vanilla = {"v0 v0 v0 v0 v1 v2 v3 v4", "v0 v0 v0 v1 v2 v3 v4 v5", "v0 v0 v1 v2 v3 v4 v5 v6",
                                            "v0 v1 v2 v3 v4 v5 v6 v7"};
  const std::vector<std::string> paper = {"v0+3 v0+3 v0+3 v0+3 v1+3 v2+3 v3+3 v4+3", "v0+2 v0+2 v0+2 v1+2 v2+2 v3+2 v4+2 v5+2",
                                          "v0+1 v0+1 v1+1 v2+1 v3+1 v4+1 v5+1 v6+1", "v0 v1 v2 v3 v4 v5 v6 v7"};
  const std::vector<std::string> released = {"v0+4 v0+4 v0+4 v0+4 v1+4 v2+4 v3+4 v4+4", "v0+3 v0+3 v0+3 v1+3 v2+3 v3+3 v4+3 v5+3",
                                             "v0+2 v0+2 v1+2 v2+2 v3+2 v4+2 v5+2 v6+2", "v0+1 v1+1 v2+1 v3+1 v4+1 v5+1 v6+1 v7+1"};
  const std::vector<std::string> exact = {"v0 v0+1 v0+2 v0+3 v1+3 v2+3 v3+3 v4+3", "v0 v0+1 v0+2 v1+2 v2+2 v3+2 v4+2 v5+2",
                                          "v0 v0+1 v1+1 v2+1 v3+1 v4+1 v5+1 v6+1", "v0 v1 v2 v3 v4 v5 v6 v7"};
  using Row = std::tuple<std::string, LookAheadMode, std::vector<std::string>, std::vector<int>>;
  for (const auto& [method, mode, table, copies] :
       {Row{"vanilla", LookAheadMode::paper, vanilla, {1, 1, 1, 1}}, Row{"pipeoptim", LookAheadMode::paper, paper, {2, 2, 2, 1}},
        Row{"pipeoptim", LookAheadMode::released, released, {2, 2, 2, 2}}, Row{"pipeoptim", LookAheadMode::exact, exact, {2, 2, 2, 1}},
        Row{"pipeoptim", LookAheadMode::decayed, exact, {2, 2, 2, 1}}}) {
    const Audit result = audit(programs_of(method, {4, 8, 1, mode}));
    for (int k = 0; k < 4; ++k) CHECK(forward_reads(result, k) == words(table[k]));
    CHECK(result.copies == copies);
    CHECK(result.frames == std::vector<int>{4, 3, 2, 1});
    for (const AuditedPass& pass : result.passes)
      if (pass.backward())
        CHECK(std::tuple(pass.reads, pass.version, pass.live) == std::tuple(Reads::latest, pass.minibatch, pass.minibatch));
  }
}

TEST_CASE("PipeDream: forward and backward of a pass read the same weights; D - k versions on stage k") {
  for_all_settings([](const Setting& setting) {
    if (setting.look_ahead != LookAheadMode::paper) return;  // nothing is predicted
    const auto expected = simulate(setting.stages, setting.minibatches, setting.micro_batches);
    const Audit result = audit(programs_of("pipedream", setting));
    size_t next = 0;
    for (int k = 0; k < setting.stages; ++k) {
      std::map<Pass, int64_t> under_way;  // what was read by passes that have not been backed yet
      size_t versions = 1;
      for (const Expected& pass : expected[k]) {
        const AuditedPass& found = result.passes[next++];
        if (!pass.backward) under_way[{pass.minibatch, pass.micro}] = pass.live;
        const int64_t version = under_way.at({pass.minibatch, pass.micro});
        REQUIRE(found.backward() == pass.backward);
        REQUIRE(found.version == version);
        REQUIRE(found.live == pass.live);
        REQUIRE(found.reads == (version == pass.live ? Reads::latest : Reads::stash));
        REQUIRE(found.time == pass.time);
        std::set<int64_t> held = {pass.live};
        for (const auto& [other, read] : under_way) held.insert(read);
        versions = std::max(versions, held.size());
        if (pass.backward) under_way.erase({pass.minibatch, pass.micro});
      }
      REQUIRE(result.copies[k] == int(versions));
      if (setting.micro_batches == 1 && setting.minibatches >= 2 * setting.stages) REQUIRE(result.copies[k] == setting.stages - k);
    }
  });
  CHECK(audit(programs_of("pipedream", {4, 13, 1})).copies == std::vector<int>{4, 3, 2, 1});
  CHECK(forward_reads(audit(programs_of("pipedream", {4, 8, 1})), 0) == words("v0 v0 v0 v0 v1 v2 v3 v4"));
}

TEST_CASE("PipeDream-2BW: every pass of mini-batch b reads version max(0, b - 1), from two copies") {
  for_all_settings([](const Setting& setting) {
    if (setting.look_ahead != LookAheadMode::paper) return;
    if (setting.micro_batches < setting.stages) {
      CHECK_THROWS_WITH_AS(programs_of("pipedream-2bw", setting),
                           doctest::Contains(("--micro-batches " + std::to_string(setting.stages)).c_str()), UsageError);
      return;
    }
    const Audit result = audit(programs_of("pipedream-2bw", setting));
    const auto expected = simulate(setting.stages, setting.minibatches, setting.micro_batches);
    size_t next = 0;
    for (int k = 0; k < setting.stages; ++k) {
      for (const Expected& pass : expected[k]) {
        const AuditedPass& found = result.passes[next++];
        REQUIRE(found.version == std::max<int64_t>(0, pass.minibatch - 1));
        REQUIRE(found.live == pass.live);
        REQUIRE(found.time == pass.time);
      }
      REQUIRE(result.copies[k] == (setting.minibatches > 1 ? 2 : 1));
    }
  });
}

TEST_CASE("the synchronous methods: every pass of mini-batch i reads version i, and frames are what each promises") {
  for_all_settings([](const Setting& setting) {
    if (setting.look_ahead != LookAheadMode::paper) return;
    for (const std::string method : {"gpipe", "1f1b-flush"}) {
      CAPTURE(method);
      const Audit result = audit(programs_of(method, setting));
      std::vector<std::vector<int64_t>> passes(setting.stages);  // how often each was seen: two per pass
      for (auto& of_stage : passes) of_stage.resize(setting.minibatches * setting.micro_batches);
      for (const AuditedPass& pass : result.passes) {
        REQUIRE(pass.reads == Reads::latest);
        REQUIRE(pass.version == pass.minibatch);
        REQUIRE(pass.live == pass.minibatch);
        ++passes[pass.stage][pass.minibatch * setting.micro_batches + pass.micro];
      }
      for (int k = 0; k < setting.stages; ++k) {
        REQUIRE(std::all_of(passes[k].begin(), passes[k].end(), [](int64_t n) { return n == 2; }));
        REQUIRE(result.copies[k] == 1);
        if (setting.minibatches > 0)
          REQUIRE(result.frames[k] == (method == "gpipe" ? setting.micro_batches : std::min(setting.micro_batches, setting.stages - k)));
      }
    }
  });
  // The bubble of GPipe: with every pass one tick, a mini-batch takes 2 (M + D - 1) ticks.
  for (int stages : {1, 2, 4})
    for (int micro_batches : {1, 3, 8}) {
      int64_t end = 0;
      for (const AuditedPass& pass : audit(programs_of("gpipe", {stages, 1, micro_batches})).passes) end = std::max(end, pass.time + 1);
      CHECK(end == 2 * (micro_batches + stages - 1));
    }
}

TEST_CASE("the true lag of mini-batch i on stage k is min(i, stages - 1 - k)") {
  for (int stages : {1, 2, 4, 7, 16})
    for (int64_t minibatches : {0, 1, 3, 20})
      for (int k = 0; k < stages; ++k) {
        std::vector<int> lags;
        for (int64_t i = 0; i < minibatches; ++i) lags.push_back(int(std::min<int64_t>(i, stages - 1 - k)));
        CHECK(true_lags(one_forward_one_backward({stages, minibatches, 1}, k)) == lags);
      }
  // With two micro-batches a stage in the middle has two lags in turn: stage 2 of 4 forwards one pass ahead.
  CHECK(true_lags(one_forward_one_backward({4, 3, 2}, 2)) == std::vector<int>{0, 0, 1, 0, 1, 0});
  CHECK(true_lags(one_forward_one_backward({4, 4, 2}, 0)) == std::vector<int>{0, 0, 1, 1, 2, 1, 2, 1});
}

TEST_CASE("one forward, one backward: the whole program of a small pipeline, written by hand") {
  using enum Operation;
  auto i = [](Operation operation, int64_t minibatch, int micro) { return Instruction{operation, minibatch, micro}; };
  CHECK(one_forward_one_backward({2, 1, 2}, 0) == Program{i(receive_activation, 0, 0), i(forward, 0, 0), i(send_activation, 0, 0),
                                                          i(receive_activation, 0, 1), i(forward, 0, 1), i(send_activation, 0, 1),
                                                          i(receive_gradient, 0, 0), i(backward, 0, 0), i(receive_gradient, 0, 1),
                                                          i(backward, 0, 1), i(step, 0, 1)});
  CHECK(one_forward_one_backward({2, 2, 1}, 1) == Program{i(receive_activation, 0, 0), i(forward, 0, 0), i(backward, 0, 0),
                                                          i(send_gradient, 0, 0), i(step, 0, 0), i(receive_activation, 1, 0),
                                                          i(forward, 1, 0), i(backward, 1, 0), i(send_gradient, 1, 0), i(step, 1, 0)});
  CHECK(one_forward_one_backward({1, 1, 1}, 0) == Program{i(receive_activation, 0, 0), i(forward, 0, 0), i(backward, 0, 0), i(step, 0, 0)});
  CHECK(one_forward_one_backward({3, 0, 2}, 1).empty());
}

TEST_CASE("PipeOptim is 1F1B with predictions, and without them it is 1F1B to the letter") {
  for_all_settings([](const Setting& setting) {
    const auto programs = programs_of("pipeoptim", setting), plain = programs_of("vanilla", setting);
    for (int k = 0; k < setting.stages; ++k) {
      Program rest;
      for (Instruction i : programs[k]) {
        if (i.operation == Operation::predict) continue;
        i.reads = Reads::latest;
        i.ahead = 0;
        rest.push_back(i);
      }
      REQUIRE(rest == plain[k]);
      REQUIRE(plain[k] == one_forward_one_backward(setting, k));
    }
  });
}

TEST_CASE("a prediction is made where it is needed, joins the step where it can, and is made once") {
  for_all_settings([](const Setting& setting) {
    const auto programs = programs_of("pipeoptim", setting);
    for (int k = 0; k < setting.stages; ++k) {
      CAPTURE(k);
      const Program& program = programs[k];
      bool step_seen = false, read = true;
      int written = 0;           // of the copy, while it starts from the latest weights
      bool joined_step = false;  // a predict has been made since the last step
      for (size_t p = 0; p < program.size(); ++p) {
        const Instruction& i = program[p];
        if (i.operation == Operation::step) step_seen = true, written = 0, joined_step = false;
        if (i.operation == Operation::predict) {
          REQUIRE(read);  // nobody waits for the one before
          REQUIRE(i.ahead > 0);
          REQUIRE(i.ahead != written);  // the copy does not hold this already
          // The first since a step is part of the step; others stand before the forward that reads them.
          if (step_seen && !joined_step) REQUIRE(program[p - 1].operation == Operation::step);
          else REQUIRE(program[p + 1].operation == Operation::receive_activation);
          joined_step = true;
          written = i.ahead;
          read = false;
          // It names the pass that reads it first.
          auto reader = std::find_if(program.begin() + ptrdiff_t(p), program.end(),
                                     [](const Instruction& other) { return other.reads == Reads::predicted; });
          REQUIRE(reader != program.end());
          REQUIRE(pass_of(*reader) == pass_of(i));
        }
        if (i.reads == Reads::predicted) {
          REQUIRE(i.operation == Operation::forward);
          REQUIRE(i.ahead == written);
          read = true;
        }
      }
      REQUIRE(read);  // nor is one made for nobody at the end
      if (setting.micro_batches == 1 && setting.minibatches > setting.stages) {
        // Steady state: one prediction per update, all of them part of a step.
        const size_t first_step = find(program, Operation::step);
        for (size_t p = first_step; p < program.size(); ++p)
          if (program[p].operation == Operation::predict) REQUIRE(program[p - 1].operation == Operation::step);
      }
    }
  });
  // Counted once by hand: stage 0 of 4 forwards mini-batches 0 to 3 before its first step. One prediction serves them all with
  // the paper's constant; the exact lags are 0, 1, 2, 3 and take three.
  auto count = [](const Program& program) {
    return std::count_if(program.begin(), program.end(), [](const Instruction& i) { return i.operation == Operation::predict; });
  };
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::paper})[0]) == 1 + 4);
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::exact})[0]) == 3 + 4);
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::paper})[3]) == 0);
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::released})[3]) == 8);
  CHECK(count(programs_of("pipeoptim", {1, 8, 1, LookAheadMode::exact})[0]) == 0);
}

TEST_CASE("evaluation forwards every batch with the latest weights and keeps one frame") {
  Setting setting{.stages = 2};
  setting.chunks = 1;
  const Program first = evaluation_program(setting, 3, 0), last = evaluation_program(setting, 3, 1);
  CHECK(first.size() == 9);
  CHECK(last.size() == 6);
  for (int64_t batch = 0; batch < 3; ++batch) {
    CHECK(first[3 * batch] == Instruction{Operation::receive_activation, batch});
    CHECK(first[3 * batch + 1] == Instruction{Operation::forward, batch, 0, Reads::latest});
    CHECK(first[3 * batch + 2] == Instruction{Operation::send_activation, batch});
    CHECK(last[2 * batch + 1] == Instruction{Operation::forward, batch, 0, Reads::latest});
  }
  CHECK(frames_needed(first) == 1);
  CHECK(copies_needed(first) == 1);
  CHECK(evaluation_program(setting, 0, 1).empty());
}

TEST_CASE("methods are found by name, and settings are checked") {
  CHECK(find_method("pipeoptim").name == "pipeoptim");
  CHECK(find_method("vanilla").name == "vanilla");
  CHECK_THROWS_WITH_AS(find_method("pipoptim"), doctest::Contains("unknown method 'pipoptim'; did you mean 'pipeoptim'? Known: "),
                       UsageError);
  CHECK_THROWS_WITH_AS(programs_of("vanilla", {0, 1, 1}), "the number of stages is 0; give at least 1", UsageError);
  CHECK_THROWS_WITH_AS(programs_of("vanilla", {1, -1, 1}), "the number of mini-batches is -1; give at least 0", UsageError);
  CHECK_THROWS_WITH_AS(programs_of("vanilla", {1, 1, 0}), "the number of micro-batches is 0; give at least 1", UsageError);
}

TEST_CASE("audit refuses a program with any one instruction removed, or any one doubled") {
  for (const std::string method : {"vanilla", "pipeoptim", "pipedream", "gpipe", "1f1b-flush"})
    for (LookAheadMode mode : modes)
      for (int stages : {1, 2, 3})
        for (int micro_batches : {1, 2}) {
          const auto good = programs_of(method, {stages, 4, micro_batches, mode});
          REQUIRE(error_of(good) == "");
          for (int k = 0; k < stages; ++k)
            for (size_t p = 0; p < good[k].size(); ++p) {
              CAPTURE(method);
              CAPTURE(to_string(mode));
              CAPTURE(k);
              CAPTURE(p);
              CAPTURE(to_string(good[k][p].operation));
              auto removed = good, doubled = good;
              removed[k].erase(removed[k].begin() + ptrdiff_t(p));
              doubled[k].insert(doubled[k].begin() + ptrdiff_t(p), good[k][p]);
              CHECK(contains(error_of(removed), "stage "));
              CHECK(contains(error_of(doubled), "stage "));
            }
        }
}

TEST_CASE("audit names the stage, the instruction, the pass and the fault") {
  using enum Operation;
  const auto good = programs_of("pipeoptim", {2, 3, 1, LookAheadMode::paper});
  // Stage 0: predict, 0 in, F0, out, 1 in, F1, out, gradient in, B0, step, predict, 2 in, F2, out, gradient in, B1, step, ...
  // Stage 1: 0 in, F0, B0, gradient out, step, ...
  auto programs = good;
  Program &first = programs[0], &last = programs[1];
  auto fault = [&](size_t stage, size_t instruction, const std::string& name, const std::string& what) {
    CHECK(error_of(programs) == "the program of stage " + std::to_string(stage) + " is wrong at instruction " +
                                    std::to_string(instruction) + ", " + name + ": " + what);
    programs = good;
  };

  SUBCASE("backward before forward") {
    last.insert(last.begin(), {backward, 0});
    fault(1, 0, "backward of mini-batch 0.0", "it comes before its forward");
  }
  SUBCASE("backward twice") {
    last.insert(last.begin() + 3, last[2]);
    fault(1, 3, "backward of mini-batch 0.0", "it has run before");
  }
  SUBCASE("forward twice") {
    first.insert(first.begin() + 4, {first[1], first[2]});
    fault(0, 5, "forward of mini-batch 0.0", "it has run before");
  }
  SUBCASE("forward without its backward") {
    auto alone = programs_of("vanilla", {1, 2, 1});
    alone[0].erase(alone[0].begin() + ptrdiff_t(find(alone[0], backward, 1)), alone[0].end());
    CHECK(error_of(alone) == "the program of stage 0 is wrong at instruction 5, forward of mini-batch 1.0: no backward follows");
  }
  SUBCASE("a message of another pass") {
    for (Instruction& i : last)
      if (i.minibatch < 2) i.minibatch = 1 - i.minibatch;
    fault(1, 0, "receive_activation of mini-batch 1.0", "the message that arrives is that of mini-batch 0.0");
  }
  SUBCASE("a message of another micro-batch") {
    auto two = programs_of("vanilla", {2, 1, 2});
    for (Instruction& i : two[1])
      if (i.operation != step) i.micro = 1 - i.micro;
    CHECK(contains(error_of(two),
                   "stage 1 is wrong at instruction 0, receive_activation of mini-batch 0.1: the message that arrives is that of "
                   "mini-batch 0.0"));
  }
  SUBCASE("a message left over") {
    programs = programs_of("vanilla", {2, 2, 1});
    for (Operation operation : {receive_activation, forward, send_activation}) programs[0].push_back({operation, 2});
    fault(0, 14, "send_activation of mini-batch 2.0", "stage 1 never receives it");
    programs = programs_of("vanilla", {2, 2, 1});
    programs[0].resize(programs[0].size() - 3);
    fault(1, 8, "send_gradient of mini-batch 1.0", "stage 0 never receives it");
  }
  SUBCASE("the ends of the pipeline") {
    last.insert(last.begin() + 2, {send_activation, 0});
    fault(1, 2, "send_activation of mini-batch 0.0", "there is no stage after it");
    last.insert(last.begin() + 2, {receive_gradient, 0});
    fault(1, 2, "receive_gradient of mini-batch 0.0", "there is no stage after it");
    first.insert(first.begin() + 9, {send_gradient, 0});
    fault(0, 9, "send_gradient of mini-batch 0.0", "there is no stage before it");
  }
  SUBCASE("what is received is used at once, what is made is sent at once") {
    std::swap(first[0], first[1]);  // the prediction between the receipt and the forward
    fault(0, 0, "receive_activation of mini-batch 0.0", "the forward of this pass does not follow directly");
    first.erase(first.begin() + 1);
    fault(0, 1, "forward of mini-batch 0.0", "the receive_activation of this pass does not stand directly before it");
    std::swap(last[3], last[4]);
    fault(1, 4, "send_gradient of mini-batch 0.0", "the backward of this pass does not stand directly before it");
    std::swap(first[3], first[4]);
    fault(0, 3, "receive_activation of mini-batch 1.0", "the forward of this pass does not follow directly");
    std::rotate(first.begin() + 13, first.begin() + 14, first.begin() + 16);  // out, gradient in, B1: out comes last
    fault(0, 15, "send_activation of mini-batch 2.0", "the forward of this pass does not stand directly before it");
    first[3].minibatch = 1;
    fault(0, 3, "send_activation of mini-batch 1.0", "the forward of this pass does not stand directly before it");
    first.erase(first.begin() + 8);
    fault(0, 7, "receive_gradient of mini-batch 0.0", "the backward of this pass does not follow directly");
    first.erase(first.begin() + 7);
    fault(0, 7, "backward of mini-batch 0.0", "the receive_gradient of this pass does not stand directly before it");
  }
  SUBCASE("a prediction that was not made") {
    first.erase(first.begin());
    fault(0, 1, "forward of mini-batch 0.0", "it reads predicted weights and none were predicted since the last step");
    first.erase(first.begin() + 10);
    fault(0, 11, "forward of mini-batch 2.0", "it reads predicted weights and none were predicted since the last step");
  }
  SUBCASE("a prediction before the step") {
    std::swap(first[9], first[10]);
    fault(0, 12, "forward of mini-batch 2.0", "it reads predicted weights and none were predicted since the last step");
  }
  SUBCASE("a prediction of another reach") {
    first[10].ahead = 2;
    fault(0, 12, "forward of mini-batch 2.0", "it reads weights predicted 1 updates ahead and the last prediction was 2 ahead");
  }
  SUBCASE("a prediction for nobody") {
    first.push_back({predict, 3, 0, Reads::latest, 1});
    fault(0, first.size() - 1, "predict of mini-batch 3.0", "no pass reads what it predicts");
    first.insert(first.begin(), first[0]);
    fault(0, 0, "predict of mini-batch 0.0", "no pass reads what it predicts");
  }
  SUBCASE("a stash that nobody keeps") {
    last[2].reads = Reads::stash;
    fault(1, 2, "backward of mini-batch 0.0", "it reads slot 0 of the stash, where nothing has been put");
  }
  SUBCASE("a step without a gradient") {
    last.insert(last.begin() + 5, last[4]);
    fault(1, 5, "step of mini-batch 0.0", "no backward has run since the last step");
  }
  SUBCASE("a step too few") {
    last.erase(last.begin() + 4);
    fault(1, 6, "backward of mini-batch 1.0", "the gradient of mini-batch 0 has not been used by a step yet");
    last.pop_back();
    fault(1, 13, "send_gradient of mini-batch 2.0", "the gradient of mini-batch 2 is used by no step");
  }
  SUBCASE("a step of another mini-batch") {
    last[4].minibatch = 1;
    fault(1, 4, "step of mini-batch 1.0", "the gradient is that of mini-batch 0");
  }
}

TEST_CASE("audit finds deadlocks and says what each stage waits for") {
  using enum Operation;
  auto programs = programs_of("vanilla", {2, 1, 1});
  // Stage 0 stops before it sends what stage 1 waits for.
  programs[0].erase(programs[0].begin() + ptrdiff_t(find(programs[0], send_activation)));
  CHECK(error_of(programs) ==
        "the programs deadlock: stage 0 waits at instruction 2, receive_gradient of mini-batch 0.0, for a message of stage 1; "
        "stage 1 waits at instruction 0, receive_activation of mini-batch 0.0, for a message of stage 0");

  // A neighbour that has nothing to do.
  programs = programs_of("vanilla", {3, 1, 1});
  programs[1].clear();
  CHECK(error_of(programs) ==
        "the programs deadlock: stage 0 waits at instruction 3, receive_gradient of mini-batch 0.0, for a message of stage 1, which has "
        "finished; stage 2 waits at instruction 0, receive_activation of mini-batch 0.0, for a message of stage 1, which has finished");

  // Stage 0 sends all activations before it takes a gradient; stage 1 answers each at once. With five mini-batches two
  // activations and two gradients are under way when it stops sending; with six both links are full and neither stage can move.
  auto eager = [](int64_t minibatches) {
    std::vector<Program> programs(2);
    for (int64_t i = 0; i < minibatches; ++i)
      for (Operation operation : {receive_activation, forward, send_activation}) programs[0].push_back({operation, i});
    for (int64_t i = 0; i < minibatches; ++i)
      for (Operation operation : {receive_gradient, backward, step}) programs[0].push_back({operation, i});
    programs[1] = one_forward_one_backward({2, minibatches, 1}, 1);
    return programs;
  };
  CHECK(error_of(eager(5)) == "");
  CHECK(
      error_of(eager(6)) ==
      "the programs deadlock: stage 0 waits at instruction 17, send_activation of mini-batch 5.0, for a free place on the link to stage 1; "
      "stage 1 waits at instruction 13, send_gradient of mini-batch 2.0, for a free place on the link to stage 0");
}

TEST_CASE("the clock waits for free places on a link") {
  using enum Operation;
  // Stage 0 sends five activations in a row. Stage 1 carries one pass at a time through stage 2 and back, four ticks each, so it
  // takes them at 1, 5, 9, ... The third message leaves at 3; the fourth could at 4 and waits for the second to be taken at 5;
  // the fifth, ready at 6, waits for the third to be taken at 9.
  std::vector<Program> programs(3);
  for (int64_t i = 0; i < 5; ++i)
    for (Operation operation : {receive_activation, forward, send_activation}) programs[0].push_back({operation, i});
  for (int64_t i = 0; i < 5; ++i)
    for (Operation operation : {receive_gradient, backward, step}) programs[0].push_back({operation, i});
  for (int64_t i = 0; i < 5; ++i)
    for (Operation operation : {receive_activation, forward, send_activation, receive_gradient, backward, send_gradient, step})
      programs[1].push_back({operation, i});
  programs[2] = one_forward_one_backward({3, 5, 1}, 2);
  std::vector<int64_t> forwards, backwards;
  for (const AuditedPass& pass : audit(programs).passes)
    if (pass.stage == 0) (pass.backward() ? backwards : forwards).push_back(pass.time);
  CHECK(forwards == std::vector<int64_t>{0, 1, 2, 3, 5});
  CHECK(backwards == std::vector<int64_t>{9, 10, 13, 17, 21});
}
