// How fast this machine trains: one stage, one process, no files.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "engine/memory.h"
#include "engine/random.h"
#include "models/models.h"
#include "pipeline/trainer.h"

namespace pipecast {
namespace {

// Noise in the shape of images: speed does not depend on what they show.
Dataset noise_images(int64_t count, int64_t side) {
  constexpr int64_t classes = 10;
  Dataset data{"noise", {1, side, side, 3}, classes, {}, {}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};
  const Random random{1, purpose("bench"), 0};
  data.train.labels.resize(size_t(count)), data.train.pixels.resize(size_t(count * data.image.count()));
  for (size_t i = 0; i < data.train.labels.size(); ++i) data.train.labels[i] = int32_t(random.below(i, classes));
  for (size_t i = 0; i < data.train.pixels.size(); ++i) data.train.pixels[i] = uint8_t(random.below(i, 256));
  return data;
}

class BenchCommand : public Command {
 public:
  BenchCommand()
      : Command("bench", "Measure the speed of a training step",
                "  pipecast bench step --model resnet20 --batch 128 --image 32 --threads 2\n"
                "  pipecast bench step --model resnet50 --batch 32 --image 64 --json") {}

  void declare(Options& o) override {
    o.text("benchmark", what_, "NAME", "step: forward, loss, backward and update of one mini-batch on one stage");
    o.positional();
    o.text("model", model_, "NAME", list_names(model_entries()));
    o.number("batch", trainer_.batch, "N", "images per mini-batch", int64_t(1));
    o.number("image", image_, "SIZE", "height and width of the images", int64_t(1));
    o.text("device", trainer_.device, "NAME", "cpu or cuda");
    o.number("threads", trainer_.threads, "N", "threads on the host; 0: all", 0);
    o.number("seconds", seconds_, "S", "time to measure for", 0.0);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    if (what_ != "step") throw UsageError(unknown_name("benchmark", what_, {"step"}));
    if (trainer_.threads == 0) trainer_.threads = threads();
    trainer_.executor = "sequential";  // one stage needs no thread beside this one
    const Dataset data = noise_images(trainer_.batch, image_);
    const Batches batches(data, data.train, trainer_.batch, true, {}, 1);
    Trainer trainer(make_model(model_, {data.image, data.classes}), trainer_);

    using Clock = std::chrono::steady_clock;
    constexpr int64_t most_steps = 1 << 20, warm_up = 3;
    std::vector<double> times;  // seconds a step
    Clock::time_point begin, last;
    int64_t done = trainer.train(batches, 0, warm_up).samples / trainer_.batch;
    begin = Clock::now();
    while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds_ && done < most_steps) {
      constexpr int64_t together = 10;  // from one fill of the pipeline to its drain
      last = Clock::now();
      trainer.train(batches, done, done + together, [&](int64_t) {
        const Clock::time_point now = Clock::now();
        times.push_back(std::chrono::duration<double>(now - last).count());
        last = now;
      });
      done += together;
    }
    if (times.empty()) throw UsageError("--seconds " + format("%g", seconds_) + " leaves no time for a single step; give more");
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    const double images_per_second = double(times.size()) * double(trainer_.batch) / elapsed;
    std::sort(times.begin(), times.end());
    const double median = times[times.size() / 2], low = times[times.size() / 10], high = times[times.size() * 9 / 10];
    const double mebibytes = double(memory_peak()) / (1 << 20);
    if (json_)
      std::cout << nlohmann::ordered_json{{"benchmark", "step"},
                                          {"model", model_},
                                          {"batch", trainer_.batch},
                                          {"image", image_},
                                          {"device", trainer_.device},
                                          {"threads", trainer_.threads},
                                          {"steps", times.size()},
                                          {"images_per_second", images_per_second},
                                          {"step_seconds", {{"median", median}, {"tenth", low}, {"ninetieth", high}}},
                                          {"memory_mebibytes", mebibytes}}
                       .dump()
                << std::endl;
    else
      std::cout << format("%s, batch %lld, %lldx%lld images, %d threads on %s: %.1f images/s\n", model_.c_str(),
                          (long long)(trainer_.batch), (long long)(image_), (long long)(image_), trainer_.threads, trainer_.device.c_str(),
                          images_per_second)
                << format("step %.2f ms median of %zu, a tenth below %.2f, a tenth above %.2f; %.1f MiB of tensors\n", median * 1e3,
                          times.size(), low * 1e3, high * 1e3, mebibytes)
                << std::flush;
  }

 private:
  std::string what_, model_ = "resnet20";
  int64_t image_ = 32;
  double seconds_ = 5;
  bool json_ = false;
  TrainerOptions trainer_;
};

}  // namespace

std::unique_ptr<Command> bench_command() { return std::make_unique<BenchCommand>(); }

}  // namespace pipecast
