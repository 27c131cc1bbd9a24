#include "pipeline/measure/layer_times.h"

#include <algorithm>
#include <chrono>

#include "engine/median.h"
#include "pipeline/run/section.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t runs = 9;  // that count; one before them warms up

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Without the first run, which warms up.
double median_of_later(std::vector<double> seconds) {
  seconds.erase(seconds.begin());
  return median(std::move(seconds));
}

double floats(std::span<const Tensor> tensors) {
  double count = 0;
  for (const Tensor& t : tensors) count += double(t.shape.count());
  return count;
}

double parameter_floats(const Layer& layer) {
  double count = 0;
  for (const ParameterSpec& spec : layer.parameters()) count += double(spec.count());
  return count;
}

// A layer of another graph, with a clock.
class TimedLayer : public Layer {
 public:
  explicit TimedLayer(Layer& layer) : Layer(layer.name()), layer_(layer), parameters_(parameter_floats(layer)) {}

  const char* kind() const override { return layer_.kind(); }
  TensorSpec output(std::span<const TensorSpec> x) const override { return layer_.output(x); }
  std::vector<ParameterSpec> parameters() const override { return layer_.parameters(); }
  std::vector<ParameterSpec> statistics() const override { return layer_.statistics(); }
  Needs prepare(Device device, std::span<const TensorSpec> x) override {
    times_ = {name(), kind(), "", {}, {}};
    needs_ = layer_.prepare(device, x);
    times_.implementation = layer_.implementation(device, x);
    times_.forward.flops = layer_.flops(x);
    return needs_;
  }
  double flops(std::span<const TensorSpec> x) const override { return layer_.flops(x); }
  std::vector<std::string> means() const override { return layer_.means(); }
  void count(std::span<const Tensor> x, double* counts) const override { layer_.count(x, counts); }
  bool splits() const override { return layer_.splits(); }
  bool adds() const override { return layer_.adds(); }
  bool normalises() const override { return layer_.normalises(); }
  Normalised normalised(const Pass& p) const override { return layer_.normalised(p); }
  bool takes_normalised() const override { return layer_.takes_normalised(); }

  void forward(const Pass& p) override {
    const auto start = Clock::now();
    layer_.forward(p);
    synchronize(p.device);
    forward_.push_back(seconds_since(start));
    times_.forward.bytes = (floats(p.x) + (p.y.data ? double(p.y.shape.count()) : 0) + parameters_) * sizeof(float);
  }
  // It reads dy, the weights, and x and y where it needs them; it writes dx where it is wanted and adds to the weights' gradients.
  void backward(const Pass& p) override {
    const auto start = Clock::now();
    layer_.backward(p);
    synchronize(p.device);
    backward_.push_back(seconds_since(start));
    double moved = (p.dy.data ? double(p.dy.shape.count()) : 0) + 3 * parameters_, products = parameters_ > 0 ? 1 : 0;
    if (needs_.input) moved += floats(p.x);
    if (needs_.output) moved += double(p.y.shape.count());
    for (const Tensor& dx : p.dx)
      if (dx.data) moved += double(dx.shape.count()), products += 1;
    if (p.adds) moved += double(p.dx[0].shape.count());
    times_.backward.bytes = moved * sizeof(float);
    times_.backward.flops = times_.forward.flops * products;
  }

  LayerTimes times() const {
    LayerTimes times = times_;
    times.forward.seconds = median_of_later(forward_), times.backward.seconds = median_of_later(backward_);
    return times;
  }

 private:
  Layer& layer_;
  double parameters_;
  Needs needs_;
  LayerTimes times_;
  std::vector<double> forward_, backward_;
};

}  // namespace

void fill_lengths(Device device, const Graph& graph, const Section& section, const PassShape& pass) {
  for (const int value : section.fed()) {
    const InputSpec& input = graph.input_of(value);
    if (!input.name.ends_with("length") || input.sample.storage != Storage::int32) continue;
    const Tensor to = section.value(0, value, pass);
    const std::vector<int32_t> lengths(size_t(to.shape.count()), int32_t(pass.length));
    copy(device, to.data, lengths.data(), to.bytes());
    synchronize(device);
  }
}

ModelTimes measure_layers(const Graph& graph, const PassShape& pass, const std::string& device) {
  Graph timed(graph.name());
  std::vector<const TimedLayer*> layers;
  timed.part("all");
  size_t next = 0;  // the inputs stand where they do in the graph, so that values have the same numbers
  const auto add_inputs = [&](int end) {
    for (; int(next) < end; ++next)
      if (graph.is_input(int(next))) timed.input(graph.input_of(int(next)));
  };
  for (const Node& node : graph.nodes()) {
    add_inputs(node.value);
    next = size_t(node.value) + 1;
    auto layer = std::make_unique<TimedLayer>(*node.layer);
    layers.push_back(layer.get());
    timed.add(std::move(layer), node.inputs);
  }

  const DeviceOwner owner(device);
  const Device d = owner.get();
  Section section(d, timed, 0, int(timed.nodes().size()), {pass}, 1);
  const Memory weights(d, section.parameters().total), gradients(d, section.parameters().total), statistics(d, section.statistics().total);
  const Binding w = section.bind_parameters(weights.data()), g = section.bind_parameters(gradients.data());
  const Binding s = section.bind_statistics(statistics.data());
  fill_lengths(d, timed, section, pass);
  std::vector<double> forward, backward;
  for (size_t run = 0; run <= runs; ++run) {
    auto start = Clock::now();
    section.forward(0, pass, w, s, {});
    synchronize(d);
    forward.push_back(seconds_since(start));
    start = Clock::now();
    section.backward(0, pass, w, g, s, {});
    synchronize(d);
    backward.push_back(seconds_since(start));
  }
  ModelTimes times{{}, median_of_later(forward), median_of_later(backward)};
  for (const TimedLayer* layer : layers) times.layers.push_back(layer->times());
  return times;
}

double training_flops(const Graph& graph, const PassShape& pass) {
  const std::vector<TensorSpec> specs = graph.specs(pass);
  double flops = 0;
  for (const Node& node : graph.nodes()) {
    std::vector<TensorSpec> x;
    bool wants_gradient = false;
    for (int v : node.inputs) x.push_back(specs[size_t(v)]), wants_gradient |= graph.has_gradient(v, specs);
    flops += (wants_gradient ? 3 : 2) * node.layer->flops(x);
  }
  return flops;
}

}  // namespace pipecast
