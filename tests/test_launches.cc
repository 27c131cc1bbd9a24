// How many kernels are launched, counted on the simulated CUDA machine. Launching one takes a GPU 4 us, as long as a small kernel runs.
#include <doctest/doctest.h>

#include "engine/memory.h"
#include "optim/gradient_norm.h"
#include "optim/optimizer.h"
#include "pipeline/train/trainer.h"
#include "small_run.h"
#include "tests/simulated_cuda/launch.h"

using namespace pipecast;

namespace {

template <class Work>
int64_t launches_of(const Work& work) {
  const int64_t before = simulated_cuda::launches;
  work();
  return simulated_cuda::launches - before;
}

}  // namespace

TEST_CASE("an update is one kernel, whatever the number of weights, and so are a prediction and both together") {
  const DeviceOwner owner("cuda", "fp32");
  const Device d = owner.get();
  for (const char* name : {"sgd", "adam", "adamw", "nadam", "rmsprop"})
    for (int64_t n : {100, 100000}) {
      CAPTURE(name);
      const auto optimizer = make_optimizer({.name = name});
      std::vector<Memory> memory;
      for (int k = 0; k < 6; ++k) memory.emplace_back(d, n), fill_zero(d, memory.back().data(), size_t(n) * sizeof(float));
      Buffers b;
      b.n = n, b.w = memory[0].data(), b.g = memory[1].data();
      b.state = {memory[2].data(), memory[3].data(), memory[4].data()};
      const std::vector<float> rates(3, 0.1f);
      const LookAhead ahead{.rates = rates};
      const Update update{.t = 1, .rate = 0.1f};
      CHECK(launches_of([&] { optimizer->step(d, b, update, {}); }) == 1);
      b.predicted = memory[5].data();
      CHECK(launches_of([&] { optimizer->step(d, b, update, ahead); }) == 1);
      CHECK(launches_of([&] { optimizer->predict(d, b, 1, ahead); }) == 1);
      synchronize(d);
    }
}

// Of a mini-batch in steady state, on one stage: 3 blocks of a 3x3 convolution and a batch norm, pooling, a linear layer, the loss.
TEST_CASE("launches of a mini-batch: they grow with the layers, and not with anything else") {
  const auto launches = [](int blocks, int64_t batch) {
    const PictureSet data = testing::noise(4 * batch);
    TrainerOptions o;
    o.device = "cuda", o.batch = batch;
    Trainer trainer(testing::small_graph(blocks), o);
    testing::PictureBatches batches(data, data.train, batch, false, {}, 1);
    trainer.train(batches, 0, 2);
    return launches_of([&] { trainer.train(batches, 2, 4); }) / 2;
  };
  const int64_t three = launches(3, 4), five = launches(5, 4);
  CHECK(launches(3, 8) == three);
  // A block: convolution forward, both gradients and the sum of its splits; batch norm's statistics, normalisation, sums and gradient.
  CHECK(five - three == 2 * 8);
  // The other 13: pooling, the linear layer and the loss in both directions, the checks for values that are not finite, the gradient's
  // norm, the update.
  CHECK(three == 37);
}
