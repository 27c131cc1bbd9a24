// Pipelines on the simulated CUDA machine, in many orders of their streams: all end with the same bits.
#include <doctest/doctest.h>

#include <map>

#include "models/weights.h"
#include "pipeline/train/trainer.h"
#include "small_run.h"
#include "tests/simulated_cuda/machine.h"

using namespace pipecast;

namespace {

constexpr int64_t batch = 8, updates = 6;
#ifdef __SANITIZE_THREAD__  // it finds a missing order in any order
constexpr uint64_t orders = 1;
#else
constexpr uint64_t orders = 20;
#endif

TrainerOptions options_of(const Method& method, const std::string& math) {
  TrainerOptions o;
  o.stages = 4, o.threads = 4, o.partition = {1, 1, 1, 1};
  o.method = method.name, o.device = "cuda", o.math = math;
  o.batch = batch, o.micro_batches = 4;
  o.schedule = {.name = "constant", .rate = 0.01f};
  o.optimizer.name = "adamw";
  if (method.name == std::string("interleaved")) o.stages = 2, o.threads = 2, o.chunks = 2;
  if (method.name == std::string("nadam-async")) o.optimizer = {.name = "nadam", .beta1 = 0.99f};
  return o;
}

std::string digest_of(const TrainerOptions& o, const PictureSet& data) {
  Trainer trainer(testing::small_graph(3), o);
  testing::PictureBatches batches(data, data.train, batch, false, {}, 1);
  trainer.train(batches, 0, updates);
  trainer.evaluate(batches);
  return weights_digest(trainer.weights());
}

}  // namespace

TEST_CASE("whatever order the streams work in, a method ends with the same bits: in threads, in sequence, with CUDA graphs") {
  const PictureSet data = testing::noise(batch * updates);
  std::map<std::string, std::string> digests;  // by method and math
  for (uint64_t seed = 0; seed <= orders; ++seed) {
    simulated_cuda::set_seed(seed);
    for (const Method& method : methods()) {
      const std::string math = seed % 2 ? "fp32" : "bf16";
      TrainerOptions o = options_of(method, math);
      o.cuda_graphs = seed % 3 == 1;
      if (seed % 5 == 2) o.executor = "sequential";
      CAPTURE(seed);
      CAPTURE(method.name);
      const std::string digest = digest_of(o, data);
      CHECK(digests.try_emplace(math + method.name, digest).first->second == digest);
    }
  }
  CHECK(digests.size() == 2 * methods().size());
}
