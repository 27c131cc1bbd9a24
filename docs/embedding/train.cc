// The fork's names in a program of its own: trained on a pipeline of three stages.
#include <cstdio>

#include "data/batches.h"
#include "fork.h"
#include "pipeline/train/trainer.h"

int main() {
  using namespace pipecast;
  mine::register_all();

  Dataset data = load_dataset("stripes");
  TrainerOptions options;
  options.stages = 3;
  options.method = "half-ahead";
  options.optimizer = {.name = "lion", .weight_decay = 1e-3f, .beta1 = 0.9f, .beta2 = 0.99f};
  options.schedule = {.name = "inverse-root", .rate = 2e-3f};
  options.batch = 32;
  Trainer trainer(make_model("two-branches", {.image = data.image, .classes = data.classes}), options);

  Batches train(data.train, {.batch = options.batch, .shuffle = true, .seed = 1}), test(data.test, {.batch = options.batch});
  trainer.train(train, 0, 10 * train.per_epoch());
  const Outcome outcome = trainer.evaluate(test);
  std::printf("loss %.4f, accuracy %.3f\n", outcome.loss, outcome.accuracy);
  return outcome.accuracy > 0.9 ? 0 : 1;
}
