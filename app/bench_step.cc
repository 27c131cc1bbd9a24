// How fast this machine trains: one stage, one process, no files.
#include <algorithm>
#include <chrono>
#include <iostream>

#include "app/commands.h"
#include "app/noise.h"
#include "app/process.h"
#include "app/spread.h"
#include "engine/memory.h"
#include "models/models.h"
#include "pipeline/limits.h"
#include "pipeline/measure/layer_times.h"
#include "pipeline/measure/machine.h"
#include "pipeline/train/trainer.h"

namespace pipecast {
namespace {

class BenchStepCommand : public Command {
 public:
  BenchStepCommand()
      : Command("bench step", "Forward, loss, backward and update of one mini-batch on one stage: speed and memory",
                "  pipecast bench step --model resnet20 --batch 128 --image 32 --threads 2\n"
                "  pipecast bench step --model resnet50 --batch 32 --image 64 --json\n"
                "  pipecast bench step --model residual-lstm --batch 256 --length 200") {}

  void declare(Options& o) override {
    o.text("model", model_, "NAME", list_names(model_entries()));
    o.number("batch", trainer_.batch, "N", "samples per mini-batch", 1, most_batch);
    o.number("image", image_, "SIZE", "height and width of the images", 1, most_image_side);
    o.number("length", trainer_.length, "N", "tokens per sample, where the model reads sequences", 1, most_length);
    o.number("vocabulary", vocabulary_, "N", "size of the vocabulary; 0: as the model was made for", 0, most_vocabulary);
    o.text("device", trainer_.device, "NAME", "cpu or cuda");
    o.text("math", trainer_.math, "NAME", "fp32, tf32 on a GPU, or bf16");
    o.flag("cuda-graphs", trainer_.cuda_graphs, "record each pass on the GPU once and replay it");
    o.number("threads", trainer_.threads, "N", "threads on the host; 0: all", 0, most_threads);
    o.number("seconds", seconds_, "S", "time to measure for", 0, most_seconds);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    const double before = double(peak_resident_bytes()) / (1 << 20);
    trainer_.threads = threads_asked_for(trainer_.threads);
    trainer_.executor = "sequential";  // one stage needs no thread beside this one
    trainer_.schedule.rate = 1e-3f;    // nothing diverges on noise
    const Dataset pictures = noise_pictures(trainer_.batch, image_);
    const int64_t vocabulary = vocabulary_ > 0 ? vocabulary_ : model_entry(model_).vocabulary;
    Graph graph = make_model(model_, {.image = pictures.image, .classes = pictures.classes, .vocabulary = vocabulary});
    const bool sequences = std::ranges::any_of(graph.inputs(), [](const InputSpec& input) { return input.sequence; });
    if (!sequences) trainer_.length = 1;
    const Batches batches(
        sequences ? noise_sequences(graph, trainer_.batch, trainer_.length, vocabulary, pictures.classes) : pictures.train,
        {.batch = trainer_.batch, .shuffle = true, .seed = 1});
    Trainer trainer(std::move(graph), trainer_, batches.shapes());

    using Clock = std::chrono::steady_clock;
    constexpr int64_t most_steps = 1 << 20, warm_up = 3;
    std::vector<double> times;  // seconds a step
    Clock::time_point begin, last;
    trainer.train(batches, 0, 1);
    const double start = seconds_since_start();
    trainer.train(batches, 1, warm_up);
    int64_t done = warm_up;
    begin = Clock::now();
    while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds_ && done < most_steps) {
      const bool host = trainer_.device == "cpu";
      const int64_t together = host ? 10 : 100;  // from one fill of the pipeline to its drain
      last = Clock::now();
      const Outcome outcome = trainer.train(batches, done, done + together, [&](int64_t) {
        if (!host) return;  // reported when the GPU has been given the step, not when it has done it
        const Clock::time_point now = Clock::now();
        times.push_back(std::chrono::duration<double>(now - last).count());
        last = now;
      });
      if (!host) times.insert(times.end(), size_t(together), outcome.seconds / double(together));
      done += together;
    }
    if (times.empty()) throw UsageError("--seconds " + format("%g", seconds_) + " leaves no time for a single step; give more");
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    const double steps_per_second = double(times.size()) / elapsed, images_per_second = steps_per_second * double(trainer_.batch);
    const double flops_per_second = training_flops(trainer.graph(), trainer_.pass()) * steps_per_second;
    const Spread spread(times);
    // Before the machine is measured, which takes memory too.
    const double tensors = double(memory_peak()) / (1 << 20), resident = double(peak_resident_bytes()) / (1 << 20);
    set_threads(trainer_.threads);
    const MachineRates machine = measure_machine(trainer_.device);
    const double share = flops_per_second / machine.flops_per_second;
    if (json_)
      std::cout << nlohmann::ordered_json{{"benchmark", "step"},
                                          {"model", model_},
                                          {"batch", trainer_.batch},
                                          {"image", image_},
                                          {"length", trainer_.length},
                                          {"device", trainer_.device},
                                          {"threads", trainer_.threads},
                                          {"steps", times.size()},
                                          {"images_per_second", images_per_second},
                                          {"tokens_per_second", images_per_second * double(trainer_.length)},
                                          {"step_seconds", spread.json()},
                                          {"memory_mebibytes", tensors},
                                          {"peak_resident_mebibytes", resident},
                                          {"resident_mebibytes_before", before},
                                          {"start_seconds", start},
                                          {"gflops_per_second", flops_per_second * 1e-9},
                                          {"machine_gflops_per_second", machine.flops_per_second * 1e-9},
                                          {"share_of_machine", share}}
                       .dump()
                << std::endl;
    else
      std::cout << format("%s, batch %lld, ", model_.c_str(), (long long)(trainer_.batch))
                << (sequences ? format("%lld tokens, ", (long long)(trainer_.length))
                              : format("%lldx%lld images, ", (long long)(image_), (long long)(image_)))
                << format("%d threads on %s: ", trainer_.threads, trainer_.device.c_str())
                << (sequences ? format("%.0f tokens/s\n", images_per_second * double(trainer_.length))
                              : format("%.1f images/s\n", images_per_second))
                << format("step %.2f ms median of %zu, a tenth below %.2f, a tenth above %.2f; first step done %.2f s after the start\n",
                          spread.median * 1e3, times.size(), spread.tenth * 1e3, spread.ninetieth * 1e3, start)
                << format("%.1f GFLOP/s, %.0f %% of the %.1f of a matrix product here\n", flops_per_second * 1e-9, share * 100,
                          machine.flops_per_second * 1e-9)
                << format("%.1f MiB of tensors; %.1f MiB resident at most, %.1f before the model was made\n", tensors, resident, before)
                << std::flush;
  }

 private:
  std::string model_ = "resnet20";
  int64_t image_ = 32, vocabulary_ = 0;
  double seconds_ = 5;
  bool json_ = false;
  TrainerOptions trainer_;
};

}  // namespace

std::unique_ptr<Command> bench_step_command() { return std::make_unique<BenchStepCommand>(); }

}  // namespace pipecast
