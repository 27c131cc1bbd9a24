// The plan: what programs the methods yield, which weights each pass reads, and what the audit refuses.
#include <doctest/doctest.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <tuple>

#include "engine/error.h"
#include "pipeline/limits.h"
#include "pipeline/plan/audit.h"
#include "pipeline/plan/channels.h"
#include "pipeline/plan/draw.h"
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

// Two methods ask for enough micro-batches.
bool possible(const Method& method, const Setting& setting) {
  if (method.name == "pipedream-2bw") return setting.micro_batches >= setting.stages;
  return method.chunks == 1 || setting.micro_batches % setting.stages == 0;
}

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
    for (const std::string method : {"vanilla", "pipeoptim", "spike-compensation", "spike-compensation-lwp"}) {
      CAPTURE(method);
      const bool predicts = method == "pipeoptim" || method == "spike-compensation-lwp";
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
          if (predicts && !pass.backward) {
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
    REQUIRE(programs_of("nadam-async", setting) == programs_of("pipedream", setting));
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

// What a pass is to read, by the rule of a method alone: `forwards[k]` has the newest version on stage k at each pass's forward.
struct Wish {
  int64_t version;
  int ahead;  // predicted updates; below 0: an estimate of where the weights were
  auto operator<=>(const Wish&) const = default;
};
using Live = std::map<std::pair<int64_t, int>, int64_t>;  // by (mini-batch, micro-batch)

Wish wish(const std::string& method, const Setting& setting, int k, const Expected& pass, const std::vector<Live>& forwards,
          const std::vector<Live>& backwards) {
  const std::pair<int64_t, int> id = {pass.minibatch, pass.micro}, bellwether = {pass.minibatch, 0};
  const int last = setting.stages - 1, parts = setting.micro_batches;
  const int64_t begun = forwards[k].at(id), ended = backwards[k].at(id);
  if (method == "pipedream-vertical") return {forwards[0].at(id), 0};
  const bool counted = setting.look_ahead == LookAheadMode::exact || setting.look_ahead == LookAheadMode::decayed;
  if (method == "spectrain-v1") return {pass.live, k / 2 + (pass.backward ? 0 : counted ? int(ended - begun) : last - k)};
  if (method == "spectrain-v2") {
    switch (setting.look_ahead) {
      case LookAheadMode::paper: return {begun, last - k};
      case LookAheadMode::released: return {begun, 0};
      default: return {begun, int(ended - begun)};
    }
  }
  // (T + D - k / 2 - 2) / T to the nearest, halves up, with k / 2 as a real number; then (T + floor(k / 2) - 1) / T likewise, in the
  // public implementation downwards.
  if (method == "xpipe" && !pass.backward)
    return {forwards[k].at(bellwether), int(std::floor((parts + setting.stages - k / 2.0 - 2) / parts + 0.5))};
  if (method == "xpipe") {
    const int twice = 2 * (parts + k / 2 - 1);
    return {backwards[k].at(bellwether),
            setting.look_ahead == LookAheadMode::released ? twice / (2 * parts) : (twice + parts) / (2 * parts)};
  }
  REQUIRE(method == "pipemare");
  return pass.backward ? Wish{ended, -(last - k)} : Wish{begun, 0};
}

TEST_CASE("the version tables of the methods that keep or guess weights are those of their rules") {
  for (const std::string method : {"pipedream-vertical", "spectrain-v1", "spectrain-v2", "xpipe", "pipemare"})
    for_all_settings([&](const Setting& setting) {
      CAPTURE(method);
      const auto expected = simulate(setting.stages, setting.minibatches, setting.micro_batches);
      std::vector<Live> forwards(setting.stages), backwards(setting.stages);
      for (int k = 0; k < setting.stages; ++k)
        for (const Expected& pass : expected[k]) (pass.backward ? backwards : forwards)[k][{pass.minibatch, pass.micro}] = pass.live;
      const Audit result = audit(programs_of(method, setting));
      size_t next = 0;
      for (int k = 0; k < setting.stages; ++k) {
        CAPTURE(k);
        // Copies that any way of keeping would need: the latest, and what has been read, or is about to be, and will be again.
        std::map<Wish, size_t> last_read;
        for (size_t p = 0; p < expected[k].size(); ++p) last_read[wish(method, setting, k, expected[k][p], forwards, backwards)] = p;
        std::set<Wish> seen;
        size_t least = 0;
        for (size_t p = 0; p < expected[k].size(); ++p) {
          const Expected& pass = expected[k][p];
          const Wish want = wish(method, setting, k, pass, forwards, backwards);
          REQUIRE(next < result.passes.size());
          const AuditedPass& found = result.passes[next++];
          CAPTURE(pass.minibatch);
          CAPTURE(pass.micro);
          CAPTURE(pass.backward);
          REQUIRE(found.stage == k);
          REQUIRE(found.minibatch == pass.minibatch);
          REQUIRE(found.micro == pass.micro);
          REQUIRE(found.backward() == pass.backward);
          REQUIRE(found.version == want.version);
          REQUIRE(found.ahead == want.ahead);
          REQUIRE((found.reads == Reads::latest) == (want == Wish{pass.live, 0}));
          REQUIRE(found.live == pass.live);
          REQUIRE(found.time == pass.time);
          seen.insert(want);
          size_t held = 0;
          for (const auto& [other, last] : last_read)
            held += other != Wish{pass.live, 0} && last >= p && (seen.count(other) > 0 || (other.ahead == 0 && other.version < pass.live));
          least = std::max(least, held);
        }
        REQUIRE(result.copies[k] >= 1 + int(least));
        REQUIRE(result.copies[k] <= 2 + int(least));
        const int64_t passes = setting.minibatches * setting.micro_batches;
        REQUIRE(result.frames[k] == std::min<int64_t>(setting.stages - k, passes));
        if (method == "pipemare") REQUIRE(result.copies[k] <= 2);
        if (method == "xpipe") REQUIRE(result.copies[k] <= 3);
        if (setting.micro_batches > 1 || setting.minibatches < 2 * setting.stages) continue;
        // Pipedream's D - k on the first stage and, with vertical sync, on every other: D versions are under way.
        if (method == "pipedream-vertical") REQUIRE(result.copies[k] == setting.stages);
        if (method == "spectrain-v1" && (setting.look_ahead == LookAheadMode::paper || setting.look_ahead == LookAheadMode::released))
          REQUIRE(result.copies[k] == (k / 2 + setting.stages - 1 - k > 0 ? 2 : 1));
        if (method == "spectrain-v2" && setting.look_ahead == LookAheadMode::paper)
          REQUIRE(result.copies[k] == (k + 1 < setting.stages ? 1 + setting.stages - k : 1));
        if (method == "spectrain-v2" && setting.look_ahead == LookAheadMode::released) REQUIRE(result.copies[k] == setting.stages - k);
      }
      REQUIRE(next == result.passes.size());
    });
}

TEST_CASE("tables of four stages from the papers' formulas, written by hand") {
  // Steps ahead in the steady state, per stage. SpecTrain v1: forward 3 2 2 1, backward 0 0 1 1. XPipe with four micro-batches:
  // forward (4 + 4 - k / 2 - 2) / 4 = 1.5, 1.375, 1.25, 1.125; backward (4 + floor(k / 2) - 1) / 4 = 0.75, 0.75, 1, 1.
  using Row = std::tuple<std::string, LookAheadMode, int, std::vector<int>, std::vector<int>>;
  using enum LookAheadMode;
  for (const auto& [method, mode, micro_batches, forward, backward] :
       {Row{"spectrain-v1", paper, 1, {3, 2, 2, 1}, {0, 0, 1, 1}}, Row{"spectrain-v2", paper, 1, {3, 2, 1, 0}, {3, 2, 1, 0}},
        Row{"spectrain-v2", released, 1, {0, 0, 0, 0}, {0, 0, 0, 0}}, Row{"xpipe", paper, 4, {2, 1, 1, 1}, {1, 1, 1, 1}},
        Row{"xpipe", released, 4, {2, 1, 1, 1}, {0, 0, 1, 1}}, Row{"pipemare", paper, 1, {0, 0, 0, 0}, {-3, -2, -1, 0}}}) {
    CAPTURE(method);
    const Audit result = audit(programs_of(method, {4, 12, micro_batches, mode}));
    for (const AuditedPass& pass : result.passes)
      if (pass.minibatch >= 4) CHECK(pass.ahead == (pass.backward() ? backward : forward)[size_t(pass.stage)]);
  }
  CHECK(forward_reads(audit(programs_of("pipedream-vertical", {4, 8, 1})), 3) == words("v0 v0 v0 v0 v1 v2 v3 v4"));
}

TEST_CASE("updates know how late their gradient is, and how large their rate") {
  for (int stages : {1, 2, 4, 7})
    for (int64_t minibatches : {1, 3, 12})
      for (const std::string method : {"spike-compensation", "spike-compensation-lwp"}) {
        const auto programs = programs_of(method, {stages, minibatches, 1});
        for (int k = 0; k < stages; ++k)
          for (const Instruction& i : programs[k])
            if (is_step(i.operation)) {
              CHECK(i.late == std::min<int64_t>(i.minibatch, stages - 1 - k));
              CHECK(i.scale == 1);
            }
      }
  // PipeMare: rate / tau^(1 - min(t / K, 1)), where tau = D - 1 - k is at least 1; t counts the mini-batches of its own.
  Setting setting{4, 12, 1};
  setting.rescale = 8;
  for (int64_t done : {0, 3, 10}) {
    setting.done = done;
    const auto programs = programs_of("pipemare", setting);
    for (int k = 0; k < 4; ++k)
      for (const Instruction& i : programs[k])
        if (is_step(i.operation))
          CHECK(i.scale == doctest::Approx(std::pow(std::max(1, 3 - k), -(1 - std::min(double(done + i.minibatch) / 8, 1.0)))));
  }
  // SpecTrain v2 as published: the rate D - k times as large, for good.
  const auto published = programs_of("spectrain-v2", {4, 9, 1, LookAheadMode::released});
  for (int k = 0; k < 4; ++k)
    for (const Instruction& i : published[k])
      if (is_step(i.operation)) CHECK(i.scale == 4 - k);
}

TEST_CASE("with gradient accumulation the lag is the number of updates in [backwards done, forwards done)") {
  for (int stages : {1, 2, 3, 5, 8})
    for (int64_t minibatches : {1, 2, 7})
      for (int micro_batches : {1, 2, 3, 4, 9})
        for (int k = 0; k < stages; ++k) {
          std::vector<int> lags;
          for (int64_t forwards = 0; forwards < minibatches * micro_batches; ++forwards) {
            int lag = 0;
            for (int64_t backward = std::max<int64_t>(0, forwards - (stages - 1 - k)); backward < forwards; ++backward)
              lag += backward % micro_batches == micro_batches - 1;
            lags.push_back(lag);
          }
          CHECK(true_lags(one_forward_one_backward({stages, minibatches, micro_batches}, k)) == lags);
        }
}

TEST_CASE("a synchronous beginning is 1f1b-flush, then the method as from a fill of the pipeline") {
  for (const Method& method : methods()) {
    if (method.chunks > 1) continue;
    CAPTURE(method.name);
    for (int64_t done : {0, 2, 5})
      for (int64_t synchronous : {0, 3, 4, 20}) {
        CAPTURE(done);
        CAPTURE(synchronous);
        Setting setting{3, 6, 4};
        setting.done = done, setting.synchronous = synchronous, setting.rescale = 9;
        const auto programs = make_programs(method, setting);
        audit(programs);
        const int64_t beginning = std::clamp<int64_t>(synchronous - done, 0, 6);
        Setting flush{3, beginning, 4}, rest{3, 6 - beginning, 4};
        rest.done = done + beginning, rest.rescale = 9, rest.synchronous = synchronous;
        const auto first = programs_of("1f1b-flush", flush), then = make_programs(method, rest);
        for (int k = 0; k < 3; ++k) {
          Program whole = first[k];
          for (Instruction i : then[k]) i.minibatch += beginning, whole.push_back(i);
          CHECK(programs[k] == whole);
        }
      }
  }
}

// Ticks until all is done.
int64_t ticks(const Audit& audit) {
  int64_t end = 0;
  for (const AuditedPass& pass : audit.passes) end = std::max(end, pass.time + 1);
  return end;
}

TEST_CASE("the synchronous methods: every pass of mini-batch i reads version i, and frames are what each promises") {
  for_all_settings([](const Setting& setting) {
    if (setting.look_ahead != LookAheadMode::paper) return;
    for (const std::string method : {"gpipe", "1f1b-flush", "zero-bubble", "interleaved", "model-parallel"}) {
      CAPTURE(method);
      if (method == "interleaved" && setting.micro_batches % setting.stages != 0) {
        CHECK_THROWS_WITH_AS(programs_of(method, setting), doctest::Contains(("a multiple of " + std::to_string(setting.stages)).c_str()),
                             UsageError);
        continue;
      }
      const Audit result = audit(programs_of(method, setting));
      const int chunks = method == "interleaved" ? 2 : 1;
      std::map<std::tuple<int, Tag, Operation>, int> seen;
      for (const AuditedPass& pass : result.passes) {
        REQUIRE(pass.reads == Reads::latest);
        REQUIRE(pass.version == pass.minibatch);
        REQUIRE(pass.live == pass.minibatch);
        REQUIRE(pass.chunk < chunks);
        REQUIRE(++seen[{pass.stage, {pass.minibatch, pass.micro, pass.chunk}, pass.operation}] == 1);
      }
      REQUIRE(result.passes.size() ==
              size_t(setting.stages * setting.minibatches * setting.micro_batches * chunks * (method == "zero-bubble" ? 3 : 2)));
      for (int k = 0; k < setting.stages; ++k) {
        REQUIRE(result.copies[k] == 1);
        if (setting.minibatches == 0) continue;
        const int parts = setting.micro_batches, after = setting.stages - 1 - k;
        if (method == "gpipe") REQUIRE(result.frames[k] == parts);
        if (method == "1f1b-flush") REQUIRE(result.frames[k] == std::min(parts, after + 1));
        if (method == "model-parallel") REQUIRE(result.frames[k] == 1);
        if (method == "zero-bubble") REQUIRE(result.frames[k] <= std::min(parts, setting.stages));
        if (method == "interleaved") {
          // Under way while a micro-batch goes round the stages once, on to the end and back to this stage.
          int held = 0, most = 0;
          for (const AuditedPass& pass : result.passes)
            if (pass.stage == k) most = std::max(most, held += pass.backward() ? -1 : 1);
          REQUIRE(most == std::min(2 * parts, 2 * after + setting.stages + 1));
        }
      }
    }
  });
  // The bubble of GPipe: with every pass one tick, a mini-batch takes 2 (M + D - 1) ticks. Without a pipeline it takes 2 M D.
  for (int stages : {1, 2, 4})
    for (int micro_batches : {1, 3, 8}) {
      CHECK(ticks(audit(programs_of("gpipe", {stages, 1, micro_batches}))) == 2 * (micro_batches + stages - 1));
      CHECK(ticks(audit(programs_of("model-parallel", {stages, 1, micro_batches}))) == 2 * micro_batches * stages);
    }
}

TEST_CASE("zero-bubble: all halves before the step, D passes held, 3 M + D - 1 ticks") {
  for (int stages : {1, 2, 3, 4, 6})
    for (int micro_batches : {1, 2, 4, 6, 7, 12}) {
      CAPTURE(stages);
      CAPTURE(micro_batches);
      const auto programs = programs_of("zero-bubble", {stages, 2, micro_batches});
      const Audit result = audit(programs);
      for (int k = 0; k < stages; ++k) {
        int halves = 0, held = 0;
        for (const Instruction& i : programs[k]) {
          CHECK(i.operation != Operation::backward);
          if (i.operation == Operation::forward) CHECK(++held <= stages);
          if (i.operation == Operation::backward_weight) ++halves, --held;
          if (i.operation == Operation::step) CHECK(halves == micro_batches * (i.minibatch + 1));
        }
      }
      const int64_t one = ticks(audit(programs_of("zero-bubble", {stages, 1, micro_batches})));
      if (micro_batches >= stages) CHECK(one == 3 * micro_batches + stages - 1);
      // 1f1b-flush, whose backward takes both halves' ticks, waits for 3 (D - 1).
      CHECK(one <= 3 * (micro_batches + stages - 1));
    }
}

TEST_CASE("interleaved: micro-batches go in groups of D, chunk by chunk, and the bubble shrinks by the chunks") {
  for (int stages : {1, 2, 3, 4})
    for (int micro_batches : {1, 2, 3, 4, 6, 8, 12})
      for (int chunks : {1, 2, 3, 4}) {
        if (micro_batches % stages != 0) continue;
        CAPTURE(stages);
        CAPTURE(micro_batches);
        CAPTURE(chunks);
        Setting setting{stages, 1, micro_batches};
        setting.chunks = chunks;
        const auto programs = programs_of("interleaved", setting);
        const Audit result = audit(programs);
        CHECK(pipecast::chunks(programs) == chunks);
        std::vector<Tag> forwards, backwards;
        for (int begin = 0; begin < micro_batches; begin += stages)
          for (int chunk = 0; chunk < chunks; ++chunk)
            for (int micro = begin; micro < std::min(begin + stages, micro_batches); ++micro) {
              forwards.push_back({0, micro, chunk});
              backwards.push_back({0, micro, chunks - 1 - chunk});
            }
        for (int k = 0; k < stages; ++k) {
          std::vector<Tag> forth, back;
          for (const Instruction& i : programs[k])
            if (is_pass(i.operation)) (i.operation == Operation::forward ? forth : back).push_back(i.tag());
          CHECK(forth == forwards);
          CHECK(back == backwards);
        }
        // A chunk's pass is 1 / chunks of the work, and so is what is waited for: 2 (D - 1) passes, where M is a multiple of D.
        const int64_t flush = chunks * ticks(audit(programs_of("1f1b-flush", {stages, 1, micro_batches})));
        CHECK(flush == chunks * 2 * (micro_batches + stages - 1));
        CHECK(ticks(result) == 2 * (micro_batches * chunks + stages - 1));
      }
  Setting setting{2, 1, 2};
  setting.chunks = 2;
  CHECK_THROWS_WITH_AS(programs_of("gpipe", setting), doctest::Contains("one chunk"), UsageError);
}

TEST_CASE("recomputation: a forward more, with what the backward reads, for the passes of the mode") {
  for (const Method& method : methods())
    for (Recompute mode : {Recompute::never, Recompute::except_last, Recompute::always})
      for (int stages : {1, 2, 4})
        for (int micro_batches : {1, 4, 6}) {
          Setting setting{stages, 3, micro_batches};
          if (!possible(method, setting)) continue;
          CAPTURE(method.name);
          CAPTURE(to_string(mode));
          CAPTURE(stages);
          CAPTURE(micro_batches);
          const auto plain = make_programs(method, setting);
          setting.recompute = mode;
          const auto programs = make_programs(method, setting);
          const Audit result = audit(programs);
          const int chunks = pipecast::chunks(programs);
          for (int k = 0; k < stages; ++k) {
            // Without what recomputes, the program is the plain one.
            Program rest;
            std::vector<int> inputs(chunks), frames(chunks), most_inputs(chunks), most_frames(chunks);
            for (size_t p = 0; p < programs[k].size(); ++p) {
              Instruction i = programs[k][p];
              const bool recomputed = mode == Recompute::always || (mode == Recompute::except_last && i.micro + 1 < micro_batches);
              int &held = frames[i.chunk], &kept = inputs[i.chunk];
              if (i.operation == Operation::forward) {
                CHECK(i.keep == !recomputed);
                most_frames[i.chunk] = std::max(most_frames[i.chunk], held + 1);
                ++(i.keep ? held : kept);
              } else if (i.operation == Operation::recompute) {
                CHECK(recomputed);
                --kept, most_frames[i.chunk] = std::max(most_frames[i.chunk], ++held);
                // Before the gradient is waited for, and with its backward's weights.
                const size_t backward = p + 1 + (programs[k][p + 1].operation == Operation::receive_gradient ? 1 : 0);
                Instruction expected = programs[k][backward];
                CHECK(is_backward(expected.operation));
                expected.operation = Operation::recompute;
                CHECK(i == expected);
                continue;
              } else if (i.operation == Operation::backward || i.operation == Operation::backward_weight) {
                --held;
              }
              most_inputs[i.chunk] = std::max(most_inputs[i.chunk], kept);
              i.keep = true;
              rest.push_back(i);
            }
            CHECK(rest == plain[k]);
            int sum = 0;
            for (int chunk = 0; chunk < chunks; ++chunk) {
              CHECK(frames_needed(programs[k], chunk) == most_frames[chunk]);
              CHECK(inputs_needed(programs[k], chunk) == most_inputs[chunk]);
              sum += most_frames[chunk];
            }
            CHECK(result.frames[k] == sum);
            if (mode == Recompute::always && !splits_backward(programs[k])) CHECK(sum == chunks);
          }
        }
}

TEST_CASE("no method deadlocks, whatever the size") {
  for (const Method& method : methods())
    for_all_settings([&](Setting setting) {
      if (!possible(method, setting)) return;
      for (int chunks : method.chunks > 1 ? std::vector<int>{1, 2, 3} : std::vector<int>{0})
        for (Recompute mode : {Recompute::never, Recompute::except_last, Recompute::always}) {
          if (mode != Recompute::never && (setting.minibatches > 5 || setting.stages > 6)) continue;
          setting.chunks = chunks, setting.recompute = mode;
          REQUIRE(error_of(make_programs(method, setting)) == "");
        }
    });
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
        if (i.operation == Operation::step_and_predict) i.operation = Operation::step;
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
        if (is_step(i.operation)) step_seen = true, written = 0, joined_step = false;
        if (makes_prediction(i.operation)) {
          REQUIRE(read);  // nobody waits for the one before
          REQUIRE(i.ahead > 0);
          REQUIRE(i.ahead != written);  // the copy does not hold this already
          // The first since a step is part of the step; others stand before the forward that reads them.
          if (step_seen && !joined_step) REQUIRE(i.operation == Operation::step_and_predict);
          else REQUIRE(program[p + 1].operation == Operation::receive_activation);
          joined_step = true;
          written = i.ahead;
          read = false;
          if (i.operation == Operation::step_and_predict) continue;
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
        const auto first_step = std::find_if(program.begin(), program.end(), [](const Instruction& i) { return is_step(i.operation); });
        REQUIRE(std::none_of(first_step, program.end(), [](const Instruction& i) { return i.operation == Operation::predict; }));
      }
    }
  });
  // Counted once by hand: stage 0 of 4 forwards mini-batches 0 to 3 before its first step. One prediction serves them all with
  // the paper's constant; the exact lags are 0, 1, 2, 3 and take three.
  auto count = [](const Program& program) {
    return std::count_if(program.begin(), program.end(), [](const Instruction& i) { return makes_prediction(i.operation); });
  };
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::paper})[0]) == 1 + 4);
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::exact})[0]) == 3 + 4);
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::paper})[3]) == 0);
  CHECK(count(programs_of("pipeoptim", {4, 8, 1, LookAheadMode::released})[3]) == 8);
  CHECK(count(programs_of("pipeoptim", {1, 8, 1, LookAheadMode::exact})[0]) == 0);
}

TEST_CASE("learning rates by lag: a stage's steps are scaled by one over its largest staleness") {
  auto scales = [](const std::string& method, Setting setting) {
    setting.lag_rates = true;
    std::vector<std::vector<float>> all;
    for (const Program& program : programs_of(method, setting)) {
      all.push_back({});
      for (const Instruction& i : program)
        if (is_step(i.operation)) all.back().push_back(i.scale);
    }
    return all;
  };
  auto same = [](const std::vector<float>& of_stages, int64_t minibatches) {
    std::vector<std::vector<float>> all;
    for (float scale : of_stages) all.push_back(std::vector<float>(size_t(minibatches), scale));
    return all;
  };
  for (const std::string method : {"vanilla", "pipeoptim", "pipedream", "spectrain-v1", "pipemare"})
    CHECK(scales(method, {4, 9, 1}) == same({1 / 3.f, 1 / 2.f, 1, 1}, 9));
  CHECK(scales("pipedream-vertical", {4, 9, 1}) == same({1 / 3.f, 1 / 3.f, 1 / 3.f, 1 / 3.f}, 9));
  CHECK(scales("vanilla", {4, 9, 2}) == same({1 / 2.f, 1, 1, 1}, 9));  // lags 2, 1, 1, 0
  CHECK(scales("pipedream-2bw", {4, 9, 4}) == same({1, 1, 1, 1}, 9));
  for (const std::string method : {"gpipe", "1f1b-flush", "zero-bubble"}) CHECK(scales(method, {4, 9, 4}) == same({1, 1, 1, 1}, 9));
  CHECK(scales("vanilla", {4, 2, 1}) == same({1, 1, 1, 1}, 2));  // two mini-batches do not get further apart than one update
  Setting later{4, 9, 1};
  later.synchronous = 5, later.done = 3;
  auto mixed = same({1 / 3.f, 1 / 2.f, 1, 1}, 9);
  for (auto& of_stage : mixed) of_stage[0] = of_stage[1] = 1;
  CHECK(scales("vanilla", later) == mixed);
  // On top of what the method itself does: spectrain-v2 as published multiplies by stages - stage.
  CHECK(scales("spectrain-v2", {4, 9, 1, LookAheadMode::released}) == same({4 / 3.f, 3 / 2.f, 2, 1}, 9));
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

TEST_CASE("settings whose passes are too many together are refused before anything is made of them") {
  check_setting({.stages = 4, .minibatches = most_passes / 4});
  CHECK_THROWS_AS(check_setting({.stages = 4, .minibatches = most_passes / 4 + 1}), UsageError);
  check_setting({.stages = 4096, .minibatches = 64, .micro_batches = 64});
  for (const Setting& s : {Setting{.stages = 4096, .minibatches = 65, .micro_batches = 64}, Setting{.stages = 0, .minibatches = 1},
                           Setting{.stages = most_stages + 1, .minibatches = 1}, Setting{.stages = 1, .minibatches = -1},
                           Setting{.stages = 1, .minibatches = INT64_MAX}, Setting{.stages = 1, .minibatches = 1, .micro_batches = 0},
                           Setting{.stages = 1, .minibatches = 1, .micro_batches = INT_MAX},
                           Setting{.stages = most_stages, .minibatches = most_minibatches, .micro_batches = most_micro_batches, .chunks = most_chunks},
                           Setting{.stages = 1, .minibatches = 1, .chunks = most_chunks + 1}})
    CHECK_THROWS_AS(make_programs(find_method("interleaved"), s), UsageError);
}

TEST_CASE("audit refuses a program with any one instruction removed, or any one doubled") {
  for (const Method& method : methods())
    for (LookAheadMode mode : modes)
      for (Recompute recompute : {Recompute::never, Recompute::except_last, Recompute::always})
        for (int stages : {1, 2, 3})
          for (int micro_batches : {1, 2, 3}) {
            Setting setting{stages, 3, micro_batches, mode};
            if (!possible(method, setting)) continue;
            setting.recompute = recompute;
            const auto good = make_programs(method, setting);
            REQUIRE(error_of(good) == "");
            for (int k = 0; k < stages; ++k)
              for (size_t p = 0; p < good[k].size(); ++p) {
                CAPTURE(method.name);
                CAPTURE(to_string(mode));
                CAPTURE(to_string(recompute));
                CAPTURE(micro_batches);
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
  // Stage 0: predict, 0 in, F0, out, 1 in, F1, out, gradient in, B0, step and predict, 2 in, F2, out, gradient in, B1, ...
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
    std::rotate(first.begin() + 12, first.begin() + 13, first.begin() + 15);  // out, gradient in, B1: out comes last
    fault(0, 14, "send_activation of mini-batch 2.0", "the forward of this pass does not stand directly before it");
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
    first[9].operation = step;
    fault(0, 11, "forward of mini-batch 2.0", "it reads predicted weights and none were predicted since the last step");
  }
  SUBCASE("a prediction before the step") {
    first[9].operation = step;
    first.insert(first.begin() + 9, {.operation = predict, .ahead = 1});
    fault(0, 12, "forward of mini-batch 2.0", "it reads predicted weights and none were predicted since the last step");
  }
  SUBCASE("a prediction of another reach") {
    first[9].ahead = 2;
    fault(0, 11, "forward of mini-batch 2.0", "it reads weights predicted 1 updates ahead and the last prediction was 2 ahead");
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

TEST_CASE("audit names the faults of halved backwards, recomputation, stashes and chunks") {
  using enum Operation;
  std::vector<Program> programs;
  auto fault = [&](size_t stage, size_t instruction, const std::string& name, const std::string& what) {
    CHECK(error_of(programs) == "the program of stage " + std::to_string(stage) + " is wrong at instruction " +
                                    std::to_string(instruction) + ", " + name + ": " + what);
  };
  SUBCASE("a weight half that is missing before the step") {
    programs = programs_of("zero-bubble", {1, 1, 2});
    const size_t half = find(programs[0], backward_weight, 1);
    programs[0].erase(programs[0].begin() + ptrdiff_t(half));
    fault(0, find(programs[0], step), "step of mini-batch 0.1", "1 backward_weight of its passes have not run");
  }
  SUBCASE("a weight half without its input half") {
    programs = programs_of("zero-bubble", {1, 1, 1});
    programs[0].erase(programs[0].begin() + ptrdiff_t(find(programs[0], backward_input)));
    fault(0, 2, "backward_weight of mini-batch 0.0", "no backward_input of this pass waits for it");
    programs = programs_of("vanilla", {1, 1, 1});
    programs[0].insert(programs[0].begin() + 3, {backward_weight, 0});
    fault(0, 3, "backward_weight of mini-batch 0.0", "no backward_input of this pass waits for it");
  }
  Setting always{2, 3, 1};
  always.recompute = Recompute::always;
  SUBCASE("a recompute without need") {
    programs = programs_of("vanilla", {1, 1, 1});
    programs[0].insert(programs[0].begin() + 2, {recompute, 0});
    fault(0, 2, "recompute of mini-batch 0.0", "the activations are still there");
    programs[0].insert(programs[0].begin(), {recompute, 0});
    fault(0, 0, "recompute of mini-batch 0.0", "it comes before its forward");
  }
  SUBCASE("the backward of a pass that kept nothing") {
    programs = programs_of("vanilla", always);
    programs[1].erase(programs[1].begin() + 2);
    fault(1, 2, "backward of mini-batch 0.0", "its forward kept no activations and no recompute has made them again");
  }
  SUBCASE("a prediction of another age") {
    // Stage 0 of spectrain-v2 reads at the first backwards what was predicted before any update.
    programs = programs_of("spectrain-v2", {2, 3, 1});
    const auto reader =
        std::find_if(programs[0].begin(), programs[0].end(), [](const Instruction& i) { return i.reads == Reads::predicted; });
    reader->age = 1;
    fault(0, size_t(reader - programs[0].begin()), "forward of mini-batch 0.0",
          "it reads weights predicted 1 updates before, and they are not");
  }
  SUBCASE("a stash of another age, or of another reach") {
    // Stage 0 backs mini-batch 1 with the weights of one update before.
    programs = programs_of("pipedream", {2, 3, 1});
    size_t reader = find(programs[0], backward, 1);
    programs[0][reader].age = 2;
    fault(0, reader, "backward of mini-batch 1.0", "it reads slot 0 of the stash for weights of 2 updates before, and it holds those of 1");
    programs = programs_of("spectrain-v2", {2, 3, 1});
    reader = find(programs[0], backward, 1);
    programs[0][reader].ahead = 2;
    fault(0, reader, "backward of mini-batch 1.0",
          "it reads slot 0 of the stash for weights predicted 2 updates ahead, and it holds 1 ahead");
  }
  SUBCASE("a stash of nothing, of a stash, in no slot") {
    programs = programs_of("vanilla", {1, 1, 1});
    programs[0].insert(programs[0].begin(), {.operation = stash, .reads = Reads::predicted});
    fault(0, 0, "stash of mini-batch 0.0", "nothing has been predicted");
    programs[0][0].reads = Reads::stash;
    fault(0, 0, "stash of mini-batch 0.0", "it can copy the latest or the predicted weights, not a slot of the stash");
    programs[0][0].slot = -1;
    fault(0, 0, "stash of mini-batch 0.0", "the slot is below 0");
    programs[0][0] = {.operation = stash};
    fault(0, 0, "stash of mini-batch 0.0", "no pass reads what it stashes");
  }
  SUBCASE("a chunk out of order") {
    Setting setting{1, 1, 1};
    setting.chunks = 2;
    programs = programs_of("interleaved", setting);  // in, F, out, in, F of chunk 1, B, out, in, B of chunk 0, step
    std::rotate(programs[0].begin(), programs[0].begin() + 3, programs[0].begin() + 5);
    CHECK(error_of(programs) ==
          "the programs deadlock: stage 0 waits at instruction 0, receive_activation of mini-batch 0.0, chunk 1, for a message of stage 0");
    programs = programs_of("interleaved", setting);
    for (Instruction& i : programs[0])
      if (i.operation == receive_activation || i.operation == forward || i.operation == send_activation) i.chunk = -1;
    fault(0, 0, "receive_activation of mini-batch 0.0", "the chunk is below 0");
    setting.stages = setting.micro_batches = 2;
    programs = programs_of("interleaved", setting);
    for (Instruction& i : programs[0])
      if (i.chunk == 1 && (i.operation == receive_activation || i.operation == forward || i.operation == send_activation)) i.chunk = 2;
    CHECK(contains(error_of(programs),
                   "receive_activation of mini-batch 0.0, chunk 2: the message that arrives is that of mini-batch 0.0, chunk 1"));
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

}

TEST_CASE("a channel has as many places as messages are under way at once, at least two") {
  using enum Operation;
  auto capacities = [](const std::vector<Program>& programs) {
    std::vector<int> capacities;
    const Channels channels(programs);
    for (const Channel& channel : channels.all()) capacities.push_back(channel.capacity);
    return capacities;
  };
  CHECK(capacities(programs_of("vanilla", {2, 9, 1})) == std::vector<int>{2, 2});
  CHECK(capacities(programs_of("vanilla", {1, 9, 1})).empty());
  // Stage 0 sends all activations, at 1, 2, ..., 6, before it takes a gradient; stage 1 takes them at 1, 3, 5, ... and answers each at
  // once.
  auto eager = [](int64_t minibatches) {
    std::vector<Program> programs(2);
    for (int64_t i = 0; i < minibatches; ++i)
      for (Operation operation : {receive_activation, forward, send_activation}) programs[0].push_back({operation, i});
    for (int64_t i = 0; i < minibatches; ++i)
      for (Operation operation : {receive_gradient, backward, step}) programs[0].push_back({operation, i});
    programs[1] = one_forward_one_backward({2, minibatches, 1}, 1);
    return programs;
  };
  CHECK(capacities(eager(6)) == std::vector<int>{3, 2});
  CHECK(capacities(eager(60)) == std::vector<int>{30, 29});
  CHECK(error_of(eager(60)) == "");
}

TEST_CASE("a sender finds a free place") {
  using enum Operation;
  // Stage 0 sends five activations in a row. Stage 1 carries one pass at a time through stage 2 and back, four ticks each, so it
  // takes them at 1, 5, 9, ...
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
  CHECK(forwards == std::vector<int64_t>{0, 1, 2, 3, 4});
  CHECK(backwards == std::vector<int64_t>{5, 9, 13, 17, 21});
  CHECK(Channels(programs).all()[0].capacity == 3);
}
