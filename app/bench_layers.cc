// What each layer costs on this machine, beside what the machine can do.
#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "engine/device.h"
#include "models/models.h"
#include "pipeline/limits.h"
#include "pipeline/measure/layer_times.h"
#include "pipeline/measure/machine.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

// oneDNN names its slow, general implementations "ref".
bool is_reference(const LayerTimes& layer) { return layer.implementation.find("ref") != std::string::npos; }

// "winograd, winograd, winograd" in one word.
std::string shortened(const std::string& implementation) {
  const size_t comma = implementation.find(", ");
  if (comma == std::string::npos) return implementation;
  const std::string first = implementation.substr(0, comma);
  return implementation == first + ", " + first + ", " + first ? first : implementation;
}

// Both directions of the layers of one kind.
struct Sum {
  size_t layers = 0;
  LayerPass forward, backward;

  void add(const LayerTimes& layer) {
    ++layers;
    for (const auto& [sum, one] : {std::pair{&forward, &layer.forward}, std::pair{&backward, &layer.backward}})
      sum->seconds += one->seconds, sum->flops += one->flops, sum->bytes += one->bytes;
  }
};

class BenchLayersCommand : public Command {
 public:
  BenchLayersCommand()
      : Command("bench layers", "Time, GFLOP/s and GB/s of every layer, forward and backward, beside what the machine can do",
                "  pipecast bench layers --model resnet20 --batch 128 --image 32 --threads 2\n"
                "  pipecast bench layers --model resnet50 --batch 32 --image 64 --sort time") {}

  void declare(Options& o) override {
    o.text("model", model_, "NAME", list_names(model_entries()));
    o.number("batch", batch_, "N", "images of a pass", 1, most_batch);
    o.number("image", image_, "SIZE", "height and width of the images", 1, most_image_side);
    o.number("length", length_, "N", "tokens of a text, where the model reads text", 1, most_length);
    o.text("device", device_, "NAME", "cpu or cuda");
    o.number("threads", threads_, "N", "threads on the host; 0: all", 0, most_threads);
    o.text("sort", sort_, "HOW", "order, as the model has them, or time, the slowest first");
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    if (sort_ != "order" && sort_ != "time") throw UsageError(unknown_name("order of the layers", sort_, {"order", "time"}));
    const Graph graph = make_model(model_, {.image = {1, image_, image_, 3}, .vocabulary = model_entry(model_).vocabulary});
    reads_text_ = std::ranges::any_of(graph.inputs(), [](const InputSpec& input) { return input.sequence; });
    threads_ = threads_asked_for(threads_);
    set_threads(threads_);
    ModelTimes times = measure_layers(graph, {batch_, reads_text_ ? length_ : 1}, device_);
    const MachineRates machine = measure_machine(device_);
    std::map<std::string, Sum> kinds;
    Sum all;
    for (const LayerTimes& layer : times.layers) kinds[layer.kind].add(layer), all.add(layer);
    if (sort_ == "time")
      std::stable_sort(times.layers.begin(), times.layers.end(), [](const LayerTimes& a, const LayerTimes& b) {
        return a.forward.seconds + a.backward.seconds > b.forward.seconds + b.backward.seconds;
      });
    std::cout << (json_ ? json(times, kinds, machine) : table(times, kinds, all, machine)) << std::flush;
  }

 private:
  static Json json(const LayerPass& pass, const MachineRates& machine) {
    return {{"seconds", pass.seconds},
            {"flops", pass.flops},
            {"bytes", pass.bytes},
            {"gflops_per_second", pass.flops / pass.seconds * 1e-9},
            {"gigabytes_per_second", pass.bytes / pass.seconds * 1e-9},
            {"share_of_flops", pass.flops / pass.seconds / machine.flops_per_second},
            {"share_of_bandwidth", pass.bytes / pass.seconds / machine.bytes_per_second}};
  }

  std::string json(const ModelTimes& times, const std::map<std::string, Sum>& kinds, const MachineRates& machine) const {
    Json json_text = {{"benchmark", "layers"},
                      {"model", model_},
                      {"batch", batch_},
                      {"image", image_},
                      {"device", device_},
                      {"threads", threads_},
                      {"machine_gflops_per_second", machine.flops_per_second * 1e-9},
                      {"machine_gigabytes_per_second", machine.bytes_per_second * 1e-9},
                      {"forward_seconds", times.forward},
                      {"backward_seconds", times.backward}};
    for (const LayerTimes& layer : times.layers)
      json_text["layers"].push_back({{"name", layer.name},
                                     {"kind", layer.kind},
                                     {"implementation", layer.implementation},
                                     {"reference", is_reference(layer)},
                                     {"forward", json(layer.forward, machine)},
                                     {"backward", json(layer.backward, machine)}});
    for (const auto& [kind, sum] : kinds)
      json_text["kinds"].push_back(
          {{"kind", kind}, {"layers", sum.layers}, {"forward", json(sum.forward, machine)}, {"backward", json(sum.backward, machine)}});
    return json_text.dump() + "\n";
  }

  std::string table(const ModelTimes& times, const std::map<std::string, Sum>& kinds, const Sum& all, const MachineRates& machine) const {
    const double whole = times.forward + times.backward;
    // Milliseconds, GFLOP/s, and both shares of what the machine can do.
    auto columns = [&](const LayerPass& pass) {
      const double flops = pass.flops / pass.seconds, bytes = pass.bytes / pass.seconds;
      const std::string products =
          pass.flops > 0 ? format("%8.1f %4.0f%%", flops * 1e-9, 100 * flops / machine.flops_per_second) : format("%8s %5s", "", "");
      return format(" %9.3f%s%7.1f %4.0f%%", pass.seconds * 1e3, products.c_str(), bytes * 1e-9, 100 * bytes / machine.bytes_per_second);
    };
    auto row = [&](const std::string& name, const std::string& kind, const LayerPass& forward, const LayerPass& backward) {
      return format("%-22s %-20s%s  %s %5.1f%%", name.c_str(), kind.c_str(), columns(forward).c_str(), columns(backward).c_str(),
                    100 * (forward.seconds + backward.seconds) / whole);
    };
    const std::string samples =
        reads_text_ ? format("%lld tokens", (long long)(length_)) : format("%lldx%lld images", (long long)(image_), (long long)(image_));
    std::string text =
        format("%s, batch %lld, %s, %d threads on %s", model_.c_str(), (long long)(batch_), samples.c_str(), threads_, device_.c_str());
    text += format("; at most %.1f GFLOP/s in a matrix product and %.1f GB/s\n\n", machine.flops_per_second * 1e-9,
                   machine.bytes_per_second * 1e-9);
    const std::string head = "       ms GFLOP/s of max   GB/s of max";
    text += format("%-43s %-35s  %s\n", "", "forward", " backward");
    text += format("%-22s %-20s %s   %s  share\n", "layer", "kind", head.c_str(), head.c_str());
    std::string references;
    for (const LayerTimes& layer : times.layers) {
      text += row(layer.name, layer.kind, layer.forward, layer.backward);
      text += (layer.implementation.empty() ? "" : "  " + shortened(layer.implementation)) + "\n";
      if (is_reference(layer)) references += (references.empty() ? "" : ", ") + layer.name;
    }
    text += "\n";
    for (const auto& [kind, sum] : kinds) text += row(kind, format("%zu layers", sum.layers), sum.forward, sum.backward) + "\n";
    text += row("all", format("%zu layers", all.layers), all.forward, all.backward) + "\n";
    text += format("\na pass of the model: forward %.2f ms, backward %.2f ms; between the layers %.2f ms\n", times.forward * 1e3,
                   times.backward * 1e3, (whole - all.forward.seconds - all.backward.seconds) * 1e3);
    if (!references.empty()) text += "slow reference implementations run in: " + references + "\n";
    return text;
  }

  std::string model_ = "resnet20", device_ = "cpu", sort_ = "order";
  int64_t batch_ = 128, image_ = 32, length_ = 128;
  int threads_ = 0;
  bool json_ = false, reads_text_ = false;
};

}  // namespace

std::unique_ptr<Command> bench_layers_command() { return std::make_unique<BenchLayersCommand>(); }

}  // namespace pipecast
