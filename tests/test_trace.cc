// What a trace says of a run: every instruction once, in its place, with the weights that the audit says it reads.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "pipeline/plan/audit.h"
#include "pipeline/run/trace.h"
#include "pipeline/train/trainer.h"
#include "tests/small_run.h"

using namespace pipecast;
using testing::PictureBatches;
using Json = nlohmann::json;

namespace {

constexpr int64_t batch = 4;

TrainerOptions options_of(const std::string& method, const std::string& executor, int micro_batches) {
  TrainerOptions o;
  o.method = method, o.executor = executor;
  o.stages = 3, o.threads = 3, o.batch = batch, o.micro_batches = micro_batches;
  o.schedule = {.name = "constant", .rate = .01f};
  return o;
}

std::vector<Program> programs_of(const TrainerOptions& o, int64_t minibatches) {
  return make_programs(find_method(o.method), {.stages = o.stages, .minibatches = minibatches, .micro_batches = o.micro_batches});
}

struct Recorded {
  std::vector<Json> events;  // of phase X
  std::vector<Json> arrows;  // begins and ends
  std::vector<std::string> tracks;
};

Recorded read(const Trace& trace) {
  Recorded recorded;
  for (const Json& e : Json::parse(trace.json())) {
    if (e["ph"] == "X") recorded.events.push_back(e);
    else if (e["ph"] == "M" && e["name"] == "thread_name") recorded.tracks.push_back(e["args"]["name"]);
    else if (e["ph"] != "M") recorded.arrows.push_back(e);
  }
  return recorded;
}

// Whole nanoseconds: the file has three places after the point.
int64_t begin_of(const Json& event) { return std::llround(event["ts"].get<double>() * 1000); }
int64_t end_of(const Json& event) { return begin_of(event) + std::llround(event.value("dur", 0.) * 1000); }

using Key = std::tuple<std::string, int, int64_t, int, int>;  // operation, stage, mini-batch, micro-batch, chunk

Key key_of(const Json& event) {
  const Json& of = event["args"];
  return {event["cat"], event["tid"], of["minibatch"], of["micro"], of["chunk"]};
}

std::map<Key, Json> passes_of(const Recorded& recorded) {
  std::map<Key, Json> passes;
  const std::set<std::string> kinds = {"forward", "recompute", "backward", "backward_input", "backward_weight"};
  for (const Json& e : recorded.events)
    if (kinds.count(e["cat"])) CHECK_MESSAGE(passes.emplace(key_of(e), e).second, "twice: ", e.dump());
  return passes;
}

void check_tracks(const Recorded& recorded) {
  std::map<int, int64_t> ends;
  for (const Json& e : recorded.events) {
    CHECK_MESSAGE(begin_of(e) >= ends[e["tid"]], e.dump());
    CHECK(end_of(e) >= begin_of(e));
    ends[e["tid"]] = end_of(e);
  }
}

// What makes and what takes are a piece of the model apart, and in time one after the other.
void check_arrows(const Recorded& recorded, const std::map<Key, Json>& passes, int stages, size_t expected) {
  std::map<int64_t, Json> begins, ends;
  for (const Json& e : recorded.arrows) CHECK((e["ph"] == "s" ? begins : ends).emplace(e["id"], e).second);
  CHECK(begins.size() == expected);
  REQUIRE(begins.size() == ends.size());
  auto at = [&](const Json& arrow) {
    for (const auto& [pass, e] : passes)
      if (e["tid"] == arrow["tid"] && begin_of(e) <= begin_of(arrow) && begin_of(arrow) < end_of(e)) return e;
    FAIL("the arrow hits no pass: " << arrow.dump());
    return Json();
  };
  for (const auto& [id, begin] : begins) {
    const Json maker = at(begin), taker = at(ends.at(id));
    const int step = begin["name"] == "gradient" ? -1 : 1;
    auto piece = [&](const Json& e) { return e["args"]["chunk"].get<int>() * stages + e["tid"].get<int>(); };
    CHECK(piece(maker) + step == piece(taker));
    CHECK(maker["cat"] == taker["cat"]);
    CHECK((maker["cat"] == "forward") == (step == 1));
    for (const char* of : {"minibatch", "micro"}) CHECK(maker["args"][of] == taker["args"][of]);
    CHECK_MESSAGE(end_of(maker) <= begin_of(taker), maker.dump(), taker.dump());
  }
}

}  // namespace

TEST_CASE("a trace holds every pass once, in its time, with the weights that the audit says it reads") {
  const PictureSet data = testing::noise(20 * batch);
  const int64_t minibatches = 9;
  for (std::string executor : {"threads", "sequential"})
    for (std::string method : {"pipeoptim", "vanilla", "pipedream", "spectrain-v2", "gpipe", "zero-bubble", "interleaved"})
      for (int micro_batches : {1, 3}) {
        if (method == "interleaved" && micro_batches < 3) continue;  // which takes as many as there are stages
        CAPTURE(executor);
        CAPTURE(method);
        CAPTURE(micro_batches);
        TrainerOptions o = options_of(method, executor, micro_batches);
        if (method == "gpipe") o.clip_norm = 1;  // whose steps wait for each other
        Trace trace(o.stages, 0, minibatches);
        Trainer trainer(testing::small_graph(5), o);
        PictureBatches batches(data, data.train, batch, false, {}, 1);
        trainer.record(&trace);
        CHECK(!trace.complete());
        trainer.train(batches, 0, minibatches);
        CHECK(trace.complete());

        const Recorded recorded = read(trace);
        CHECK(recorded.tracks == std::vector<std::string>{"stage 0", "stage 1", "stage 2"});
        check_tracks(recorded);
        const std::map<Key, Json> passes = passes_of(recorded);
        const std::vector<Program> programs = programs_of(o, minibatches);
        const Audit audited = audit(programs);
        CHECK(passes.size() == audited.passes.size());
        size_t arrows = 0;
        for (const AuditedPass& pass : audited.passes) {
          const auto found = passes.find({to_string(pass.operation), pass.stage, pass.minibatch, pass.micro, pass.chunk});
          REQUIRE(found != passes.end());
          const int piece = pass.chunk * o.stages + pass.stage, pieces = chunks(programs) * o.stages;
          arrows += pass.operation == Operation::forward ? piece < pieces - 1 : pass.backward() && piece > 0;
          if (pass.operation == Operation::backward_weight) continue;  // reads none
          const Json& of = found->second["args"];
          CHECK(of["reads"] == to_string(pass.reads));
          CHECK(of["version"] == pass.version);
          CHECK(of["ahead"] == pass.ahead);
          CHECK(of["live"] == pass.live);
        }
        check_arrows(recorded, passes, o.stages, arrows);

        // And everything else once.
        std::map<std::string, int64_t> counts, expected;
        for (const Json& e : recorded.events) {
          if (e["cat"] != "norm" && e["cat"] != "wait") ++counts[e["cat"]];
          CHECK(e["args"].contains("predicts_ahead") == (e["cat"] == "step_and_predict"));
        }
        for (const Program& program : programs)
          for (const Instruction& i : program) ++expected[to_string(i.operation)];
        CHECK(counts == expected);

        // The time is in the events: in one thread little lies between them, in several a stage waits for what the next one has to make.
        int64_t begin = std::numeric_limits<int64_t>::max(), end = 0, covered = 0;
        std::map<std::string, int64_t> waits;
        for (const Json& e : recorded.events) {
          begin = std::min(begin, begin_of(e)), end = std::max(end, end_of(e)), covered += end_of(e) - begin_of(e);
          if (e["cat"] == "wait") ++waits[e["args"]["for"]];
        }
        CHECK(waits["samples"] == minibatches);
        if (executor == "sequential") CHECK(covered > (end - begin) / 2);
        else if (method == "gpipe") CHECK(waits["gradient"] > 0);
      }
}

TEST_CASE("a trace begins and ends where it is to, over the drains of the pipeline") {
  const PictureSet data = testing::noise(20 * batch);
  const TrainerOptions o = options_of("pipeoptim", "threads", 2);
  Trainer trainer(testing::small_graph(5), o);
  Trace trace(o.stages, 5, 12);
  PictureBatches batches(data, data.train, batch, false, {}, 1);
  trainer.record(&trace);
  for (int64_t at : {0, 4, 8}) trainer.train(batches, at, at + 4);
  CHECK(trace.complete());
  const std::string text = trace.json();
  trainer.train(batches, 12, 16);
  CHECK(trace.json() == text);

  const Recorded recorded = read(trace);
  check_tracks(recorded);
  std::map<std::string, int> forwards;
  for (const Json& e : recorded.events)
    if (e["cat"] == "forward") ++forwards[e["name"]];
  CHECK(forwards.size() == 7 * 2);
  CHECK(forwards.begin()->first == "F 10.0");
  CHECK(forwards["F 5.0"] == 3);
  CHECK(forwards["F 11.1"] == 3);
  // The version is the run's, not the program's: the pipeline was drained before mini-batch 8.
  for (const Json& e : recorded.events)
    if (e["name"] == "F 8.0") CHECK(e["args"]["version"] == 8);
}

TEST_CASE("a trace is complete before the run is over, and where nobody asks nothing is recorded") {
  const PictureSet data = testing::noise(20 * batch);
  const TrainerOptions o = options_of("pipeoptim", "threads", 1);
  Trainer trainer(testing::small_graph(5), o);
  PictureBatches batches(data, data.train, batch, false, {}, 1);
  Trace trace(o.stages, 0, 2);
  trainer.record(&trace);
  std::string early;
  trainer.train(batches, 0, 16, [&](int64_t done) {
    if (done < 16) return;
    CHECK(trace.complete());
    early = trace.json();
  });
  CHECK(trace.json() == early);
  CHECK(passes_of(read(trace)).size() == 2 * 2 * 3);

  Trace other(o.stages, 16, 20);
  trainer.record(&other);
  trainer.evaluate(batches);
  trainer.record(nullptr);
  trainer.train(batches, 16, 20);
  CHECK(read(other).events.empty());
}
