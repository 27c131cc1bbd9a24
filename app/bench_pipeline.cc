// How much faster a pipeline is than one stage, in turns: stages of one thread each beside one stage of one thread.
#include <charconv>
#include <chrono>
#include <future>
#include <iostream>
#include <map>
#include <thread>

#include "app/commands.h"
#include "app/noise.h"
#include "app/training_options.h"
#include "pipeline/limits.h"
#include "pipeline/measure/plan.h"
#include "app/spread.h"
#include "pipeline/plan/audit.h"
#include "pipeline/train/trainer.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

// A method in the comparison.
struct Entry {
  std::string name;
  TrainerOptions options;
  double permitted = 0;  // speed-up that the partition leaves: all passes and updates over those of the slowest stage
  double bubble = 0;     // share of the time in which stages wait by the method's order alone, with stages of equal cost
  std::unique_ptr<Trainer> trainer = nullptr;
  std::vector<double> seconds = {};  // of a mini-batch, by round
  std::vector<StageSummary> stages = {};
};

// By round, of two that were measured in turns.
Spread ratios(const std::vector<double>& above, const std::vector<double>& below) {
  std::vector<double> ratios;
  for (size_t round = 0; round < above.size(); ++round) ratios.push_back(above[round] / below[round]);
  return Spread(ratios);
}

class BenchPipelineCommand : public Command {
 public:
  BenchPipelineCommand()
      : Command("bench pipeline", "Speed of a pipeline of one thread a stage beside one stage of one thread, method by method",
                "  pipecast bench pipeline --model resnet20 --batch 128 --stages 2 --methods vanilla,pipeoptim,gpipe --micro-batches 8\n"
                "  pipecast bench pipeline --model resnet110 --methods pipeoptim,pipeoptim:4 --rounds 9 --json") {
    base_.stages = 2;
    base_.schedule.rate = 1e-3f;  // no method diverges on noise
  }

  void declare(Options& o) override {
    o.text("model", model_, "NAME", list_names(model_entries()));
    o.number("batch", base_.batch, "N", "images per mini-batch", 1, most_batch);
    o.number("image", image_, "SIZE", "height and width of the images", 1, most_image_side);
    o.number("stages", base_.stages, "N", "stages of the pipeline", 1, most_stages);
    o.text("partition", partition_, "HOW", partition_help);
    o.flag("cut-layers", cut_layers_, "stages may begin at any layer, not at a block only: the parts of a partition are then layers");
    o.text("methods", methods_, "LIST", "methods, each with its micro-batches if not those below: vanilla,pipeoptim:4,gpipe");
    o.number("micro-batches", micro_batches_, "N", "micro-batches per mini-batch of synchronous methods; the others take it whole", 1,
             most_micro_batches);
    o.number("minibatches", minibatches_, "N", "mini-batches of a turn, from a fill of the pipeline to its drain", 1, most_minibatches);
    o.number("rounds", rounds_, "N", "turns of each", 1, 1000000);
    o.text("device", base_.device, "NAME", "cpu or cuda");
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    std::vector<Entry> entries = read_methods();
    const Dataset data = noise_pictures(base_.batch, image_);
    const Batches batches(data.train, {.batch = base_.batch, .shuffle = true, .seed = 1});
    const ModelOptions model{data.image, data.classes};
    Partitions partitions;
    for (Entry& entry : entries) prepare(entry, model, partitions);

    TrainerOptions one = base_;
    one.stages = 1, one.threads = 1, one.method = "vanilla";
    Entry alone{"one stage", one};
    std::vector<Entry*> all = {&alone};
    for (Entry& entry : entries) all.push_back(&entry);
    for (Entry* entry : all) {
      entry->trainer = std::make_unique<Trainer>(make_graph(model), entry->options);
      entry->trainer->train(batches, 0, 2);  // warms up
      entry->trainer->summaries();           // begins anew
    }
    // As many of the one stage at once, which know nothing of each other: what the machine's cores share, memory above all, leaves a
    // pipeline no more.
    std::vector<std::unique_ptr<Trainer>> copies;
    for (int k = 0; k < base_.stages; ++k) {
      copies.push_back(std::make_unique<Trainer>(make_graph(model), one));
      copies.back()->train(batches, 0, 2);
    }
    for (int round = 0; round < rounds_; ++round) {
      together_.push_back(seconds_together(copies, batches) / double(minibatches_ * base_.stages));
      for (size_t k = 0; k < all.size(); ++k) {
        Entry& entry = *all[(size_t(round) + k) % all.size()];
        const int64_t begin = entry.trainer->updates();
        entry.seconds.push_back(entry.trainer->train(batches, begin, begin + minibatches_).seconds / double(minibatches_));
      }
    }
    for (Entry& entry : entries) entry.stages = entry.trainer->summaries();
    std::cout << (json_ ? json(alone, entries) : table(alone, entries)) << std::flush;
  }

 private:
  std::vector<Entry> read_methods() const {
    std::vector<Entry> entries;
    Mistakes mistakes;
    for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
      end = methods_.find(',', begin);
      const std::string name = methods_.substr(begin, end - begin);
      mistakes.check([&] {
        const size_t colon = name.find(':');
        Entry entry{name, base_};
        entry.options.method = name.substr(0, colon);
        entry.options.threads = base_.stages;
        find_method(entry.options.method);
        if (colon != std::string::npos) {
          int& count = entry.options.micro_batches;
          const auto [after, error] = std::from_chars(name.data() + colon + 1, name.data() + name.size(), count);
          if (error != std::errc() || after != name.data() + name.size() || count < 1 || count > most_micro_batches)
            throw UsageError("--methods: '" + name + "' has no number of micro-batches from 1 to " + std::to_string(most_micro_batches) +
                             " after its colon");
        } else if (is_synchronous(programs(entry.options, 4 * base_.stages))) {  // enough to be full
          entry.options.micro_batches = micro_batches_;
        }
        programs(entry.options, minibatches_);  // what the method refuses, it refuses before anything is measured
        entries.push_back(std::move(entry));
      });
    }
    mistakes.check([&] { DeviceOwner device(base_.device); });
    mistakes.report();
    return entries;
  }

  double seconds_together(std::vector<std::unique_ptr<Trainer>>& trainers, const Batches& batches) const {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::future<void>> trainings;
    for (auto& trainer : trainers)
      trainings.push_back(std::async(std::launch::async, [&, begin = trainer->updates()] { trainer->train(batches, begin, begin + minibatches_); }));
    for (std::future<void>& training : trainings) training.get();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  Graph make_graph(const ModelOptions& model) const {
    Graph graph = make_model(model_, model);
    if (cut_layers_) graph.cut_parts_by_layer();
    return graph;
  }

  static std::vector<Program> programs(const TrainerOptions& o, int64_t minibatches) {
    const Setting setting{.stages = o.stages, .minibatches = minibatches, .micro_batches = o.micro_batches};
    return make_programs(find_method(o.method), setting);
  }

  // By the number of pieces and the images of a pass: methods with the same are compared on the same partition.
  using Partitions = std::map<std::pair<size_t, int64_t>, std::vector<int>>;

  void prepare(Entry& entry, const ModelOptions& model, Partitions& partitions) const {
    const std::vector<Program> walked = programs(entry.options, minibatches_);
    const int chunks = pipecast::chunks(walked);
    entry.bubble = simulate(walked, uniform_costs(base_.stages, chunks, 1, 2, 0)).bubble_share;
    const Graph graph = make_graph(model);
    const int pieces = base_.stages * chunks;
    std::vector<int>& partition = partitions[{size_t(pieces), entry.options.pass().samples}];
    const bool listed = partition_ != "balanced" && partition_ != "measured";
    if (partition.empty() && listed) partition = listed_partition(partition_, graph, pieces);
    entry.options.partition = partition;
    const Plan plan = make_plan(graph, entry.options, partition_ == "measured" ? Balance::measured : Balance::estimated);
    entry.options.partition = partition = plan.partition;
    entry.permitted = base_.stages * plan.perfect / plan.slowest;
  }

  const Entry* vanilla(const std::vector<Entry>& entries) const {
    for (const Entry& entry : entries)
      if (entry.options.method == "vanilla") return &entry;
    return nullptr;
  }

  std::string json(const Entry& alone, const std::vector<Entry>& entries) const {
    Json json = {{"benchmark", "pipeline"},
                 {"model", model_},
                 {"batch", base_.batch},
                 {"image", image_},
                 {"device", base_.device},
                 {"stages", base_.stages},
                 {"cores", std::thread::hardware_concurrency()},
                 {"minibatches", minibatches_},
                 {"rounds", rounds_},
                 {"one_stage_seconds", Spread(alone.seconds).json()},
                 {"machine_permits", ratios(alone.seconds, together_).json()}};
    const Entry* base = vanilla(entries);
    for (const Entry& entry : entries) {
      Json busy = Json::array();
      for (const StageSummary& stage : entry.stages) busy.push_back(stage.busy_share);
      json["methods"].push_back({{"method", entry.options.method},
                                 {"micro_batches", entry.options.micro_batches},
                                 {"partition", entry.options.partition},
                                 {"seconds", Spread(entry.seconds).json()},
                                 {"speed_up", ratios(alone.seconds, entry.seconds).json()},
                                 {"efficiency", ratios(alone.seconds, entry.seconds).median / base_.stages},
                                 {"permitted_speed_up", entry.permitted},
                                 {"bubble_share", entry.bubble},
                                 {"busy_share", busy},
                                 {"time_of_vanilla", base ? ratios(entry.seconds, base->seconds).json() : Json()}});
    }
    return json.dump() + "\n";
  }

  std::string table(const Entry& alone, const std::vector<Entry>& entries) const {
    const Spread one(alone.seconds);
    std::string text = format("%s, batch %lld, %lldx%lld images on %s: %d stages of one thread each beside one of one thread\n",
                              model_.c_str(), (long long)(base_.batch), (long long)(image_), (long long)(image_), base_.device.c_str(),
                              base_.stages);
    text += format("%d rounds of %lld mini-batches, in turns; one stage: %.2f ms a mini-batch (%.2f to %.2f)\n", rounds_,
                   (long long)(minibatches_), one.median * 1e3, one.tenth * 1e3, one.ninetieth * 1e3);
    const Spread permits = ratios(alone.seconds, together_);
    text += format("%d trainings at once that share nothing but the machine: %.2f (%.2f to %.2f) times as fast as one\n", base_.stages,
                   permits.median, permits.tenth, permits.ninetieth);
    if (const unsigned cores = std::thread::hardware_concurrency(); base_.device == "cpu" && cores < unsigned(base_.stages))
      text += format("only %u cores: no pipeline can be more than %u times as fast here\n", cores, cores);
    text += "\nmethod                micro  ms a mini-batch  speed-up             efficiency  partition permits  bubble"
            "  time beside vanilla        busy\n";
    const Entry* base = vanilla(entries);
    for (const Entry& entry : entries) {
      const Spread speed_up = ratios(alone.seconds, entry.seconds);
      std::string beside, busy;
      if (base && base != &entry) {
        const Spread ratio = ratios(entry.seconds, base->seconds);
        beside = format("%+.1f %% (%+.1f to %+.1f)", (ratio.median - 1) * 100, (ratio.tenth - 1) * 100, (ratio.ninetieth - 1) * 100);
      }
      for (const StageSummary& stage : entry.stages) busy += format(" %3.0f %%", stage.busy_share * 100);
      text += format("%-20s  %5d  %15.2f  %.2f (%.2f to %.2f)  %8.0f %%  %17.2f  %4.0f %%  %-24s %s\n", entry.options.method.c_str(),
                     entry.options.micro_batches, Spread(entry.seconds).median * 1e3, speed_up.median, speed_up.tenth, speed_up.ninetieth,
                     speed_up.median / base_.stages * 100, entry.permitted, entry.bubble * 100, beside.c_str(), busy.c_str());
    }
    return text;
  }

  std::string model_ = "resnet20", methods_ = "vanilla,pipeoptim,gpipe", partition_ = "measured";
  int64_t image_ = 32, minibatches_ = 20;
  int micro_batches_ = 8, rounds_ = 5;
  bool cut_layers_ = false, json_ = false;
  std::vector<double> together_;  // seconds of a mini-batch, by round, with a training on every core
  TrainerOptions base_;
};

}  // namespace

std::unique_ptr<Command> bench_pipeline_command() { return std::make_unique<BenchPipelineCommand>(); }

}  // namespace pipecast
