// Training that is saved and goes on in another trainer is the training that was never interrupted, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "pipeline/train/resume.h"
#include "pipeline/train/trainer.h"
#include "tests/small_run.h"

using namespace pipecast;
using testing::PictureBatches;

namespace {

constexpr int64_t batch = 4, per_epoch = 6;  // the last mini-batch of an epoch is short

TrainerOptions options_of(const std::string& method, const std::string& optimizer = "sgd") {
  TrainerOptions o;
  o.method = method;
  o.stages = 4, o.threads = 4, o.batch = batch;
  o.executor = "sequential";
  const std::string own = find_method(method).optimizer;
  o.optimizer.name = own.empty() ? optimizer : own;
  o.optimizer.weight_decay = 1e-3f;
  o.schedule = {.name = "cosine", .rate = o.optimizer.name == "sgd" ? .05f : .01f, .epochs = 4, .warmup_epochs = .5};
  return o;
}

Trainer trainer_of(const TrainerOptions& o) { return Trainer(testing::small_graph(7, true), o, {batch, batch - 1}); }

// Everything that a trainer holds, as bytes in the order of the names.
std::vector<uint8_t> bytes_of(const std::vector<SafeTensors>& stages) {
  std::vector<uint8_t> all;
  for (const SafeTensors& stage : stages)
    for (const auto& [name, tensor] : stage.tensors) all.insert(all.end(), tensor.bytes.begin(), tensor.bytes.end());
  return all;
}

void train(Trainer& trainer, const PictureSet& data, int64_t begin, int64_t end) {
  const PictureBatches batches(data, data.train, batch, true, {.crop = true, .flip = true}, 1);
  trainer.train(batches, begin, end);
}

// Drains before mini-batch `middle` either way, and goes on in the same trainer or in another one.
void check_exact(const TrainerOptions& o, int64_t middle = 8, int64_t end = 15) {
  CAPTURE(o.method);
  CAPTURE(o.optimizer.name);
  CAPTURE(to_string(o.look_ahead));
  const PictureSet data = testing::noise(per_epoch * batch - 1);
  Trainer whole = trainer_of(o);
  train(whole, data, 0, middle);
  const std::vector<SafeTensors> saved = whole.save();
  train(whole, data, middle, end);

  Trainer resumed = trainer_of(o);
  resumed.restore(saved);
  CHECK(bytes_of(resumed.save()) == bytes_of(saved));
  train(resumed, data, middle, end);
  CHECK(weights_digest(resumed.weights()) == weights_digest(whole.weights()));
  CHECK(bytes_of(resumed.save()) == bytes_of(whole.save()));
  CHECK(resumed.updates() == end);
  const std::vector<StageSummary> of_resumed = resumed.summaries(), of_whole = whole.summaries();
  for (size_t k = 0; k < of_whole.size(); ++k) CHECK(of_resumed[k].prediction_error == of_whole[k].prediction_error);
}

}  // namespace

TEST_CASE("every method goes on as if it had not been interrupted") {
  for (const Method& method : methods())
    for (int micro_batches : {1, 4}) {
      if (micro_batches == 1 && (method.name == "pipedream-2bw" || method.name == "interleaved")) continue;  // they need one a stage
      TrainerOptions o = options_of(method.name);
      o.micro_batches = micro_batches;
      check_exact(o);
    }
}

TEST_CASE("with every optimizer and look-ahead, also one that reads the gradient before the drain") {
  for (const std::string& optimizer : optimizer_names())
    for (const std::string& mode : look_ahead_modes()) {
      TrainerOptions o = options_of("pipeoptim", optimizer);
      o.look_ahead = look_ahead_mode(mode);
      check_exact(o);
    }
  for (std::string optimizer : {"sgd", "rmsprop"})
    for (const std::string& mode : look_ahead_modes()) {
      TrainerOptions o = options_of("pipeoptim", optimizer);
      o.optimizer.momentum = 0;
      o.look_ahead = look_ahead_mode(mode);
      check_exact(o);
    }
}

TEST_CASE("what counts mini-batches goes on counting") {
  TrainerOptions mare = options_of("pipemare");
  mare.rescale_epochs = 2, mare.synchronous_epochs = .5;
  check_exact(mare);
  check_exact(mare, 1);  // before it looks back for the first time
  check_exact(mare, 2);

  TrainerOptions synchronous = options_of("pipeoptim");
  synchronous.synchronous_epochs = 2;  // ends after the interruption
  check_exact(synchronous);

  TrainerOptions lag = options_of("pipeoptim");
  lag.lag_rates = true;
  check_exact(lag);

  for (std::string method : {"pipeoptim", "gpipe"}) {
    TrainerOptions clipped = options_of(method);
    clipped.clip_norm = .5f, clipped.look_ahead = LookAheadMode::released;
    check_exact(clipped);
  }
  for (bool deferred : {false, true}) {
    TrainerOptions micro = options_of("pipeoptim");
    micro.micro_batches = 4, micro.deferred_batch_norm = deferred, micro.look_ahead = LookAheadMode::exact;
    micro.recompute = Recompute::except_last;
    check_exact(micro);
  }
  TrainerOptions threads = options_of("pipeoptim", "adamw");
  threads.executor = "threads";
  check_exact(threads);
  if (!gpu_present()) return;
  threads.device = mare.device = "cuda";
  check_exact(threads);
  check_exact(mare);
}

TEST_CASE("another number of stages takes over what was saved") {
  const PictureSet data = testing::noise(per_epoch * batch - 1);
  for (std::string method : {"gpipe", "pipemare", "pipeoptim"}) {
    CAPTURE(method);
    Trainer four = trainer_of(options_of(method, "adamw"));
    train(four, data, 0, 8);
    const std::vector<SafeTensors> saved = four.save();
    train(four, data, 8, 15);
    for (int stages : {1, 2, 3, 8}) {
      CAPTURE(stages);
      TrainerOptions o = options_of(method, "adamw");
      o.stages = stages, o.threads = stages;
      Trainer other = trainer_of(o);
      other.restore(saved);
      train(other, data, 8, 15);
      CHECK(other.updates() == 15);
      // A synchronous method does not know in how many stages it runs.
      if (method == "gpipe") CHECK(weights_digest(other.weights()) == weights_digest(four.weights()));
      Trainer back = trainer_of(options_of(method, "adamw"));
      back.restore(other.save());
      CHECK(weights_digest(back.weights()) == weights_digest(other.weights()));
    }
  }
}

TEST_CASE("what does not fit is refused by name") {
  Trainer trainer = trainer_of(options_of("pipeoptim"));
  std::vector<SafeTensors> saved = trainer.save();
  CHECK_THROWS_WITH_AS(trainer_of(options_of("pipeoptim", "adamw")).restore(saved),
                       "the checkpoint has no tensor 'state-1/conv0.weight': it is of another model or optimizer", UsageError);
  CHECK_THROWS_WITH_AS(trainer.restore({}), "the checkpoint has no stages", UsageError);
  Checkpoint older;
  older.minibatch = 12, older.description = R"({"format":1,"identity":{"digest of the data set":"0123"}})";  // of every 16th picture
  CHECK_THROWS_WITH_AS(description(older),
                       "the checkpoint of mini-batch 12 was not written by this version of pipecast: resume with the one that began the run",
                       UsageError);
  saved[0].tensors["weights/conv0.weight"].shape = {3, 3, 2, 3};
  CHECK_THROWS_WITH_AS(trainer.restore(saved),
                       "the checkpoint's tensor 'weights/conv0.weight' has another type or shape: it is of another model", UsageError);
}
