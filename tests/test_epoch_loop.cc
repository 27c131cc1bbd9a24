// A whole run through pipeline/train alone, as a program that embeds the engine has it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "pipeline/limits.h"
#include "pipeline/train/epoch_loop.h"
#include "tests/small_run.h"

using namespace pipecast;

namespace {

constexpr int64_t batch = 4, per_epoch = 5;

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("pipecast_loop_" + std::to_string(getpid()));
  Folder() { std::filesystem::remove_all(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  RunFolder run(const std::string& name) const { return RunFolder((path / name).string()); }
};

PictureSet data_of() {
  PictureSet data = testing::noise(per_epoch * batch);
  data.test = data.train;
  return data;
}

// What a process of its own would make.
struct Setup {
  PictureSet data = data_of();
  testing::PictureBatches train{data, data.train, batch, true, {.crop = true, .flip = true}, 1}, test{data, data.test, batch, false, {}, 1};
  Trainer trainer;

  explicit Setup(float rate = .02f) : trainer(testing::small_graph(4, true), options(rate)) {}
  static TrainerOptions options(float rate) {
    TrainerOptions o;
    o.stages = 3, o.threads = 3, o.batch = batch, o.executor = "sequential";
    o.schedule = {.name = "constant", .rate = rate};
    return o;
  }
  std::string digest() const { return weights_digest(trainer.weights()); }
};

const RunOptions three_epochs = {.epochs = 3, .log_every = 2, .checkpoint_every = 4};
const RunOrigin origin = {.version = "test", .options = {{"epochs", "3"}, {"seed", "1"}}, .identity = R"({"samples": 20})"};

std::string without_interruption() {
  Setup s;
  EpochLoop loop(s.trainer, s.train, s.test, three_epochs);
  loop.begin(origin);
  const std::optional<RunResult> result = loop.run();
  REQUIRE(result);
  CHECK(result->digest == s.digest());
  CHECK(result->epochs.size() == 3);
  return result->digest;
}

// A run that is asked to stop after `stop` mini-batches.
Checkpoint interrupted(const std::optional<RunFolder>& folder, int64_t stop) {
  Setup s;
  RunObserver observer;
  EpochLoop* running = nullptr;
  std::vector<StopNotice> notices;
  observer.stop_requested = [&] { return running->minibatches() >= stop; };
  observer.on_stop = [&](const StopNotice& notice) { notices.push_back(notice); };
  observer.before_done = [](const auto&) { FAIL("an interrupted run is not done"); };
  EpochLoop loop(s.trainer, s.train, s.test, three_epochs, observer, folder);
  running = &loop;
  loop.begin(origin, "a configuration\n");
  CHECK(!loop.run());
  CHECK(loop.minibatches() == 8);  // the next checkpoint
  REQUIRE(notices.size() == 1);
  CHECK(notices[0].minibatch == 8);
  CHECK(notices[0].left == 8 - stop);
  CHECK(!notices[0].is_end);
  return loop.checkpoint();
}

}  // namespace

TEST_CASE("a run in memory that is interrupted goes on as if it had not been") {
  const std::string digest = without_interruption();
  const Checkpoint checkpoint = interrupted({}, 6);
  Setup s;
  EpochLoop loop(s.trainer, s.train, s.test, three_epochs);
  CHECK(loop.resume(origin, checkpoint).changes.empty());
  const std::optional<RunResult> result = loop.run();
  REQUIRE(result);
  CHECK(result->digest == digest);
}

TEST_CASE("a run in a folder is interrupted, saved, and resumed from its files") {
  const Folder temporary;
  const RunFolder folder = temporary.run("run");
  const std::string digest = without_interruption();
  interrupted(folder, 6);

  Setup s;
  RunObserver observer;
  std::vector<int64_t> epochs, steps;
  bool report = false;
  observer.on_epoch = [&](const EpochRow& row) {
    epochs.push_back(row.epoch);
    CHECK(row.test_loss.has_value());
    CHECK(row.stages.size() == 3);
  };
  observer.on_step = [&](const StepRow& row) { steps.push_back(row.minibatch); };
  observer.before_done = [&](const std::vector<nlohmann::ordered_json>& lines) {
    report = true;
    CHECK(lines.back()["event"] == "done");
    CHECK(read_metrics(folder.metrics()).back()["event"] == "epoch");  // it is not in the file yet
    CHECK(std::filesystem::exists(folder.weights()));
  };
  EpochLoop loop(s.trainer, s.train, s.test, three_epochs, observer, folder);
  loop.resume(origin, newest_checkpoint(folder.checkpoints(), [](const std::string& why) { FAIL(why); }));
  CHECK(loop.minibatches() == 8);
  const std::optional<RunResult> result = loop.run();
  REQUIRE(result);
  CHECK(result->digest == digest);
  CHECK(report);
  CHECK(epochs == std::vector<int64_t>{2, 3});
  CHECK(steps == std::vector<int64_t>{10, 12, 14});

  const RunResult from_file = run_result(folder.metrics());
  CHECK(from_file.done);
  CHECK(from_file.digest == digest);
  CHECK(from_file.epochs.size() == 3);
  CHECK(from_file.stages.size() == 3);
  CHECK(weights_digest(from_safetensors(s.trainer.graph(), read_safetensors(folder.weights()), folder.weights())) == digest);
}

TEST_CASE("a run ends where its patience does, and leaves the best weights; resumed, it ends at the same place") {
  const Folder temporary;
  // A learning rate that is far too high: the first evaluation is soon the best.
  const auto run_of = [&](const RunFolder& folder, const RunOptions& options, int64_t stop, bool resume) {
    Setup s(1.5f);
    RunObserver observer;
    EpochLoop* running = nullptr;
    observer.stop_requested = [&] { return running->minibatches() >= stop; };
    EpochLoop loop(s.trainer, s.train, s.test, options, observer, folder);
    running = &loop;
    if (resume) loop.resume(origin, newest_checkpoint(folder.checkpoints(), [](const std::string& why) { FAIL(why); }));
    else loop.begin(origin);
    return loop.run();
  };
  const RunOptions patient = {.epochs = 40, .patience = 3, .checkpoint_every = 3};
  const RunFolder whole = temporary.run("whole"), parts = temporary.run("parts"), all = temporary.run("all");
  const std::optional<RunResult> result = run_of(whole, patient, INT64_MAX, false);
  REQUIRE(result);
  const nlohmann::ordered_json done = read_metrics(whole.metrics()).back();
  REQUIRE(result->epochs.size() < 40);
  CHECK(done["stopped_early"] == true);
  CHECK(done["epochs"] == result->epochs.size());
  const int64_t best = done["best_epoch"];
  CHECK(int64_t(result->epochs.size()) == best + 3);
  for (const EpochResult& epoch : result->epochs) CHECK(epoch.test_accuracy <= result->epochs[size_t(best - 1)].test_accuracy);
  for (int64_t epoch = 0; epoch < best - 1; ++epoch)
    CHECK(result->epochs[size_t(epoch)].test_accuracy < result->epochs[size_t(best - 1)].test_accuracy);

  CHECK(!run_of(parts, patient, best * per_epoch + 2, false));
  REQUIRE(run_of(parts, patient, INT64_MAX, true));
  CHECK(read_metrics(parts.metrics()).back()["weights_digest"] == done["weights_digest"]);
  // Once more, nothing is left to do.
  const std::optional<RunResult> again = run_of(parts, patient, INT64_MAX, true);
  REQUIRE(again);
  CHECK(again->digest == result->digest);
  CHECK(again->epochs.size() == result->epochs.size());

  // The best weights are those at the end of a run that ends with the best epoch.
  RunOptions short_run = patient;
  short_run.epochs = best, short_run.patience = 0;
  const std::optional<RunResult> up_to_best = run_of(all, short_run, INT64_MAX, false);
  REQUIRE(up_to_best);
  CHECK(read_metrics(all.metrics()).back()["stopped_early"] == false);
  Setup s(0);
  for (const RunFolder& folder : {whole, parts, all}) {
    const SafeTensors file = read_safetensors(folder.best_weights());
    CHECK(weights_digest(from_safetensors(s.trainer.graph(), file, "best")) == up_to_best->digest);
    CHECK(file.metadata.at("epoch") == std::to_string(best));
  }
  run_of(whole, {.epochs = 1}, 1, false);  // overwritten, and stopped at its first checkpoint
  CHECK(std::filesystem::exists(whole.best_weights()));
  CHECK(read_safetensors(whole.best_weights()).metadata.at("epoch") == "1");
}

TEST_CASE("a classification counts what was taken for what, and the five largest logits") {
  PictureSet data = testing::noise(5);
  data.train.labels = {0, 6, 6, 2, 1};
  const testing::PictureBatches batches(data, data.train, 2, false, {}, 1);
  Classification c(batches);
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  // Of seven classes; the label's logit is the largest, the fifth, the sixth, equal to all others, and no number.
  float logits[5][7] = {
      {9, 1, 1, 1, 1, 1, 1}, {7, 6, 5, 4, 0, 0, 3}, {7, 6, 5, 4, 3.5f, 0, 3}, {2, 2, 2, 2, 2, 2, 2}, {1, nan, 1, 1, 1, 1, 1}};
  c.add({logits[0], {2, 1, 1, 7}});
  c.add({logits[2], {3, 1, 1, 7}});
  CHECK(c.classes() == 7);
  CHECK(c.samples() == 5);
  CHECK(c.taken(0, 0) == 1);
  CHECK(c.taken(6, 0) == 2);
  CHECK(c.taken(2, 0) == 1);  // of equal ones, the first
  CHECK(c.samples_of(6) == 2);
  CHECK(c.accuracy_of(0) == 1);
  CHECK(c.accuracy_of(6) == 0);
  CHECK(std::isnan(c.accuracy_of(5)));
  CHECK(c.top5() == doctest::Approx(3. / 5));
  CHECK_THROWS_AS(c.add({logits[0], {1, 1, 1, 7}}), Error);  // more samples than labels
}

TEST_CASE("Matthews correlation: scikit-learn's figures, and 0 where it is undefined") {
  const auto correlation = [](std::vector<int32_t> labels, const std::vector<int>& predictions, int64_t classes) {
    PictureSet data = testing::noise(int64_t(labels.size()));
    data.train.labels = labels;
    Classification c(testing::PictureBatches(data, data.train, 1, false, {}, 1));
    for (const int prediction : predictions) {
      std::vector<float> logits(static_cast<size_t>(classes));
      logits[size_t(prediction)] = 1;
      c.add({logits.data(), {1, 1, 1, classes}});
    }
    return c.matthews_correlation();
  };
  CHECK(correlation({0, 0, 0, 1, 1, 1, 1}, {0, 0, 1, 0, 1, 1, 1}, 2) == doctest::Approx(0.4166666667));
  CHECK(correlation({0, 0, 0, 1, 1, 1, 1, 2, 2, 2}, {0, 0, 1, 1, 1, 1, 2, 0, 0, 2}, 3) == doctest::Approx(0.4000473457));
  CHECK(correlation({0, 0, 1}, {1, 1, 1}, 2) == 0);
}

TEST_CASE("a checkpoint of another run is refused by name") {
  const Checkpoint checkpoint = interrupted({}, 6);
  Setup s;
  EpochLoop loop(s.trainer, s.train, s.test, three_epochs);
  RunOrigin other = origin;
  other.identity = R"({"samples": 21})";
  CHECK_THROWS_WITH_AS(loop.resume(other, checkpoint), "the run goes on with what it began with; samples: 20 then, 21 now", UsageError);
  other = origin, other.options[1].second = "2";
  CHECK_THROWS_AS(loop.resume(other, checkpoint), UsageError);
  other = origin, other.options[0].second = "4";  // this one may change
  const Resumed resumed = loop.resume(other, checkpoint);
  REQUIRE(resumed.changes.size() == 1);
  CHECK(resumed.changes[0].before == "3");
  CHECK(resumed.why_not_identical == "");

  EpochLoop shorter(s.trainer, s.train, s.test, {.epochs = 1});
  CHECK_THROWS_WITH_AS(shorter.resume(origin, checkpoint), "the run is at mini-batch 8 already and would end at 5: give more --epochs",
                       UsageError);
}

TEST_CASE("a run whose loss is too large ends with a line that says so") {
  const Folder temporary;
  const RunFolder folder = temporary.run("run");
  Setup s;
  EpochLoop loop(s.trainer, s.train, s.test, {.epochs = 3, .log_every = 2, .stop_above = 1e-3}, {}, folder);
  loop.begin(origin);
  CHECK_THROWS_AS(loop.run(), Diverged);
  const RunResult result = run_result(folder.metrics());
  CHECK(result.diverged == 1);
  CHECK(!result.done);
  CHECK_THROWS_AS(EpochLoop(s.trainer, s.train, s.test, three_epochs, {}, folder), UsageError);  // it is locked
}

namespace {

// y = the sum of four numbers: a column "x" and a column "target".
class SumSamples : public Samples {
 public:
  int64_t size() const override { return 64; }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  void read(size_t column, const int32_t* samples, int64_t count, const Reading&, void* to) const override {
    float* values = static_cast<float*>(to);
    const Random random{6, purpose("sums"), 0};
    for (int64_t i = 0; i < count; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < 4; ++k) {
        const float x = random.normal(uint64_t(samples[i] * 4 + k));
        sum += x;
        if (column == 0) values[i * 4 + k] = x;
      }
      if (column == 1) values[i] = sum;
    }
  }
  void add_to(Sha256&) const override {}

 private:
  std::vector<InputSpec> columns_ = {{"x", {{1, 1, 1, 4}}}, {"target", {{1, 1, 1, 1}, Storage::fp32, false}}};
};

}  // namespace

TEST_CASE("regression: another loss, another data set, no changed line in the engine") {
  const auto samples = std::make_shared<SumSamples>();
  Graph g("regression");
  const int x = g.input(samples->columns()[0]);
  g.part("hidden");
  const int hidden = g.add(relu("relu"), {g.add(linear("hidden", 4, 16), {x})});
  g.part("head");
  const int y = g.add(linear("fc", 16, 1), {hidden});
  g.add(mean_squared_error("loss"), {y, g.input(samples->columns()[1])});
  TrainerOptions o;
  o.stages = 2, o.threads = 2, o.batch = 8;
  o.optimizer = {.name = "adam"};
  o.schedule = {.name = "constant", .rate = .02f};
  Batches train(samples, {.batch = 8, .shuffle = true, .seed = 1}), test(samples, {.batch = 8});
  Trainer trainer(std::move(g), o);
  const Folder folder;
  EpochLoop loop(trainer, train, test, {.epochs = 20}, {}, folder.run("regression"));
  loop.begin(origin);
  const std::optional<RunResult> result = loop.run();
  REQUIRE(result);
  CHECK(result->epochs.front().test_loss > 0.5);
  CHECK(result->epochs.back().test_loss < 0.05);
  std::vector<float> prediction;
  trainer.evaluate(test, &prediction);
  CHECK(prediction.size() == 64);
}

TEST_CASE("stops at numbers that are out of range are refused, and the largest fit") {
  const int64_t huge = INT64_MAX;
  for (const RunOptions& o : {RunOptions{.epochs = huge}, RunOptions{.epochs = 0}, RunOptions{.epochs = huge / 2}, RunOptions{.eval_every = huge},
                              RunOptions{.eval_every = 0}, RunOptions{.checkpoint_every = huge}, RunOptions{.checkpoint_every = -1}})
    CHECK_THROWS_AS(Stops(o, 4), UsageError);
  const int64_t per_epoch = INT32_MAX;
  const Stops stops({.epochs = most_epochs, .eval_every = most_epochs, .checkpoint_every = most_minibatches}, per_epoch);
  CHECK(stops.end() == most_epochs * per_epoch);
  CHECK(stops.after(stops.end() - 1) == stops.end());
  CHECK(stops.after(0) == most_minibatches);
}

TEST_CASE("the prediction error is the mean over the evaluations since the model was last cut anew") {
  using Json = nlohmann::ordered_json;
  const auto start = [](const char* event, std::vector<int> parts) {
    Json stages = Json::array();
    for (int count : parts) stages.push_back({{"parts", count}, {"copies", 2}, {"memory_mebibytes", 1.5}});
    return Json{{"event", event}, {"stages", stages}};
  };
  const auto epoch = [](int number, std::vector<double> errors) {
    Json stages = Json::array();
    for (double error : errors) stages.push_back({{"prediction_error", error}});
    return Json{{"event", "epoch"}, {"epoch", number}, {"images_per_second", 10. * number}, {"stages", stages}};
  };
  std::vector<Json> lines = {start("start", {2, 3}), epoch(1, {.5, .1}), epoch(2, {}), epoch(3, {.7, .3}), start("resume", {2, 3}), epoch(4, {.9, .5})};
  CHECK(run_result(lines).stages[0].prediction_error == doctest::Approx(.7));
  CHECK(run_result(lines).stages[1].prediction_error == doctest::Approx(.3));
  CHECK(run_result(lines).images_per_second == 25);
  lines.push_back(start("resume", {3, 1, 1}));
  lines.push_back(epoch(5, {.2, .4, .6}));
  CHECK(run_result(lines).stages.size() == 3);
  CHECK(run_result(lines).stages[2].prediction_error == doctest::Approx(.6));
}

TEST_CASE("every stop is a multiple of an interval") {
  const Stops stops({.epochs = 5, .eval_every = 2, .checkpoint_every = 7}, 10);
  CHECK(stops.intervals() == std::vector<int64_t>{20, 50, 7});
  CHECK(Stops({.epochs = 1}, 10).intervals() == std::vector<int64_t>{10, 10});
}

TEST_CASE("stops and what is counted between them") {
  const Stops stops({.epochs = 5, .eval_every = 2, .checkpoint_every = 7}, 10);
  std::vector<int64_t> all;
  for (int64_t at = 0; at < stops.end(); all.push_back(at)) at = stops.after(at);
  CHECK(all == std::vector<int64_t>{7, 14, 20, 21, 28, 35, 40, 42, 49, 50});
  for (int64_t at : all) CHECK(stops.stops(at));
  CHECK(!stops.stops(10));
  CHECK(stops.evaluates(20));
  CHECK(!stops.evaluates(21));
  CHECK(stops.evaluates(50));

  Progression at;
  at.minibatches = 10, at.trained = {.samples = 40, .counted = 40, .loss = 80}, at.step = {.samples = 20, .counted = 20, .loss = 60};
  CHECK(at.loss_since(at.step) == 1);
  at.evaluated(.5, .75);
  CHECK(at.best == 10);
  CHECK(at.trained.samples == 0);
  at.minibatches = 20;
  at.evaluated(.4, .75);  // no better
  CHECK(at.best == 10);
  CHECK(at.test_loss == .4);

  Progression regression;  // without an accuracy: the best is that with the least loss
  regression.minibatches = 10, regression.evaluated(.5, NAN);
  regression.minibatches = 20, regression.evaluated(.6, NAN);
  CHECK(regression.best == 10);
  regression.minibatches = 30, regression.evaluated(.4, NAN);
  CHECK(regression.best == 30);
}
