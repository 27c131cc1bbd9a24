// bf16: the number itself, and passes over tensors that are stored in it. Such a pass is that of fp32 with every tensor rounded where it
// is written; on a GPU nearly so, as convolutions multiply rounded weights there.
#include <memory>
#include <optional>

#include "layer_harness.h"
#include "section_values.h"
#include "layers/layers.h"
#include "pipeline/run/section.h"

using namespace pipecast;
using namespace pipecast::testing;

namespace {

float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }
uint16_t rounded_bits(float value) { return Bfloat16(value).bits; }

Values rounded(Values values) {
  for (float& v : values) v = Bfloat16(v);
  return values;
}
std::vector<Bfloat16> stored(const Values& values) { return {values.begin(), values.end()}; }
Values read(Device device, const Tensor& t) {
  std::vector<Bfloat16> values(size_t(t.shape.count()));
  copy(device, values.data(), t.as<Bfloat16>(), t.bytes());
  synchronize(device);
  return {values.begin(), values.end()};
}
void write(Device device, const Tensor& t, const Values& values) {
  const std::vector<Bfloat16> from = stored(values);
  copy(device, t.as<Bfloat16>(), from.data(), t.bytes());
  synchronize(device);
}

// Every kind of layer; values read twice, with gradients that layers add to themselves and gradients that are added afterwards.
Graph everything() {
  Graph graph("everything", {1, 6, 6, 3});
  auto conv = [](const char* name, int64_t in, int64_t out, int64_t kernel, bool bias = false) {
    return convolution(name, {.in = in, .out = out, .kernel = kernel, .padding = kernel / 2, .bias = bias});
  };
  graph.part("all");
  graph.add(conv("conv1", 3, 4, 3, true), {0});
  graph.add(batch_norm("bn1", {.channels = 4, .relu = true}), {1});
  graph.add(conv("conv2", 4, 4, 3), {2});
  graph.add(batch_norm("bn2", {.channels = 4, .relu = true, .add = true}), {3, 2});
  graph.add(conv("conv3", 4, 5, 1), {4});
  graph.add(batch_norm("bn3", {.channels = 5}), {5});
  graph.add(concatenation("both"), {4, 6});
  graph.add(relu("relu"), {7});
  graph.add(dropout("drop", 0.3f), {8});
  graph.add(max_pool("max", {.kernel = 3, .stride = 1, .padding = 1}), {9});
  graph.add(add("sum"), {8, 9, 10});
  graph.add(average_pool("average", {.kernel = 2, .stride = 2}), {11});
  graph.add(global_average_pool("global"), {12});
  graph.add(linear("fc", 9, 5), {13});
  return graph;
}

constexpr uint64_t seed = 7, step = 3;

// A pass in fp32, node by node, with every value and every gradient rounded when it is there.
struct RoundedPass {
  RoundedPass(Device device, const Graph& graph, const Values& x, const Values& dy, const Binding& weights, const Binding& gradients,
              const Binding& statistics, int64_t batch) {
    const auto& nodes = graph.nodes();
    std::vector<Shape> shapes;
    for (const TensorSpec& spec : graph.specs(batch)) shapes.push_back(spec.shape);
    std::vector<std::optional<Guarded>> values(shapes.size()), slopes(shapes.size());
    std::vector<std::unique_ptr<Guarded>> saved, workspace;
    auto round = [](Guarded& tensor) { tensor.set(rounded(tensor.get())); };
    auto nothing = [&](int64_t n) { return std::make_unique<Guarded>(device, Values(size_t(n), NAN)); };
    auto pass_of = [&](size_t i, std::vector<Tensor>& inputs) {
      inputs.clear();
      for (int v : nodes[i].inputs) inputs.push_back({values[size_t(v)]->data(), shapes[size_t(v)]});
      Pass p;
      p.device = device, p.seed = seed, p.step = step;
      p.x = inputs, p.y = {values[i + 1]->data(), shapes[i + 1]};
      p.weight = weights.node(i), p.dweight = gradients.node(i), p.statistics = statistics.node(i);
      p.saved = saved[i]->data(), p.workspace = workspace[i]->data();
      return p;
    };

    std::vector<Tensor> inputs;
    values[0].emplace(device, rounded(x));
    for (size_t i = 0; i < nodes.size(); ++i) {
      std::vector<Shape> of;
      for (int v : nodes[i].inputs) of.push_back(shapes[size_t(v)]);
      const Needs needs = nodes[i].layer->prepare(device, specs_of(of));
      saved.push_back(nothing(needs.saved)), workspace.push_back(nothing(needs.workspace));
      values[i + 1].emplace(device, Values(size_t(shapes[i + 1].count()), NAN));
      nodes[i].layer->forward(pass_of(i, inputs));
      round(*values[i + 1]);
    }
    y = values.back()->get();

    slopes.back().emplace(device, rounded(dy));
    for (size_t i = nodes.size(); i-- > 0;) {
      Pass p = pass_of(i, inputs);
      p.dy = {slopes[i + 1]->data(), shapes[i + 1]};
      std::vector<Tensor> dx;
      std::vector<std::unique_ptr<Guarded>> to_add(inputs.size());
      for (size_t k = 0; k < inputs.size(); ++k) {
        const auto v = size_t(nodes[i].inputs[k]);
        Guarded* place = nullptr;  // nobody wants the gradient of the images
        if (v > 0 && slopes[v] && k == 0 && nodes[i].layer->adds()) place = &*slopes[v], p.adds = true;
        else if (v > 0 && slopes[v]) place = (to_add[k] = nothing(shapes[v].count())).get();
        else if (v > 0) place = &slopes[v].emplace(device, Values(size_t(shapes[v].count()), NAN));
        dx.push_back({place ? place->data() : nullptr, shapes[v]});
      }
      p.dx = dx;
      nodes[i].layer->backward(p);
      for (size_t k = 0; k < inputs.size(); ++k) {
        const auto v = size_t(nodes[i].inputs[k]);
        if (v == 0) continue;
        if (to_add[k]) {
          Values sum = slopes[v]->get();
          const Values more = rounded(to_add[k]->get());
          for (size_t e = 0; e < sum.size(); ++e) sum[e] += more[e];
          slopes[v]->set(sum);
        }
        round(*slopes[v]);
      }
    }
  }

  Values y;
};

// Relative to the norm.
void check_near(const std::string& what, const Values& got, const Values& expected, double bound) {
  double norm = 0, error = 0;
  for (size_t i = 0; i < got.size(); ++i)
    norm += std::pow(double(expected[i]), 2), error += std::pow(double(got[i]) - double(expected[i]), 2);
  INFO(what, ": error ", std::sqrt(error / norm));
  CHECK(error <= bound * bound * norm);  // false for NaN
}

}  // namespace

TEST_CASE("bf16: every number of it comes back, and a float becomes the nearest, ties to even") {
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
    const float value = from_bits(bits << 16);
    if (std::isnan(value)) CHECK(std::isnan(float(Bfloat16(value))));
    else CHECK(rounded_bits(value) == bits);
    if (!std::isfinite(value)) continue;
    const uint32_t middle = bits << 16 | 0x8000;  // between it and the next one away from zero
    CHECK(rounded_bits(from_bits(middle - 1)) == bits);
    CHECK(rounded_bits(from_bits(middle)) == (bits % 2 == 0 ? bits : bits + 1));
    CHECK(rounded_bits(from_bits(middle + 1)) == bits + 1);  // after the largest comes infinity
  }
  CHECK(std::isnan(float(Bfloat16(from_bits(0x7f800001)))));  // whose upper half alone is infinity's
  CHECK(std::isnan(float(Bfloat16(from_bits(0xffffffff)))));
}

TEST_CASE("bf16: a section's pass is that of fp32, rounded where it is written") {
  for (const TestDevice& on : test_devices())
    for (bool halves : {false, true}) {
      CAPTURE(on.name);
      CAPTURE(halves);
      // Sums over rows are of two kernels, in which a compiler may fuse other products with sums: they differ in their last bit, which
      // may decide how a value or a gradient is rounded: one of fifteen outputs, one of some hundred gradients that a weight's adds up.
      // Gradients that are not rounded where they should be are off by 1e-3.
      const bool gpu = on.name == "cuda";
      const double of_outputs = gpu ? 0.02 : 1e-3, of_sums = gpu ? 0.02 : 1e-4;
      const Device device = on.device;
      const int64_t batch = 3;
      const Graph graph = everything();
      Section section(device, graph, 0, int(graph.nodes().size()), {batch - 1, batch}, 2, {Storage::bf16, halves});
      const int64_t parameters = section.parameters().total, statistics = section.statistics().total;
      Values variances = noise(statistics, 3);
      for (float& v : variances) v = 0.5f + std::abs(v);
      const Guarded weight(device, rounded(noise(parameters, 2)));  // tensor cores round them
      const Guarded gradient(device, noise(parameters, 4)), expected_gradient(device, noise(parameters, 4));
      const Guarded statistic(device, variances), expected_statistic(device, variances);
      const Values x = noise(input_of(section, 0, 0, batch).shape.count(), 5);
      const Values dy = noise(output_of(section, 0, 0, batch).shape.count(), 6);

      const RoundedPass expected(device, graph, x, dy, section.bind_parameters(weight.data()),
                                 section.bind_parameters(expected_gradient.data()), section.bind_statistics(expected_statistic.data()),
                                 batch);

      const PassOptions options{.seed = seed, .step = step};
      const Binding weights = section.bind_parameters(weight.data()), gradients = section.bind_parameters(gradient.data());
      const Binding bound = section.bind_statistics(statistic.data());
      const int frame = 1;
      write(device, input_of(section, frame, 0, batch), x);
      section.forward(frame, batch, weights, bound, options);
      check_near("y", read(device, output_of(section, frame, 0, batch)), expected.y, of_outputs);
      write(device, output_gradient_of(section, frame, 0, batch), dy);
      for (Half half : halves ? std::vector<Half>{Half::input, Half::weight} : std::vector<Half>{Half::both})
        section.backward(frame, batch, weights, gradients, bound, options, half);
      check_near("weights' gradients", gradient.get(), expected_gradient.get(), of_sums);
      check_near("statistics", statistic.get(), expected_statistic.get(), of_sums);
    }
}

TEST_CASE("bf16: the loss of rounded logits, and its gradient rounded") {
  const int64_t rows = 4, classes = 7;
  const Shape shape{rows, 1, 1, classes};
  const Values logits = rounded(noise(shape.count(), 1));
  const std::vector<int32_t> target = {3, 0, 6, 2};
  for (const TestDevice& on : test_devices()) {
    CAPTURE(on.name);
    const Device d = on.device;
    Memory labels(d, rows);
    copy(d, labels.data(), target.data(), target.size() * sizeof(int32_t));
    Guarded wide(d, logits), slope(d, logits), rows_of(d, Values(3 * rows)), rows_of_bf16(d, Values(3 * rows));
    Memory narrow(d, shape.count()), narrow_slope(d, shape.count());
    const Tensor z{narrow.data(), shape, Storage::bf16}, dz{narrow_slope.data(), shape, Storage::bf16};
    write(d, z, logits);
    const auto layer = softmax_cross_entropy("loss", {.label_smoothing = 0.1f});
    Guarded scale(d, {0.25f});
    auto run = [&](const Tensor& of, Guarded& to, const Tensor& gradient) {
      const Tensor x[] = {of, {labels.data(), {rows, 1, 1, 1}, Storage::int32}};
      const Tensor dx[] = {gradient, {}};
      Pass p;
      p.device = d, p.x = x, p.y = {to.data(), {rows, 1, 1, 1}}, p.workspace = to.data() + rows, p.sums = to.data() + 2 * rows;
      p.scale = scale.data();
      layer->forward(p);
      p.dx = dx;
      layer->backward(p);
    };
    run({wide.data(), shape}, rows_of, {slope.data(), shape});
    run(z, rows_of_bf16, dz);
    CHECK(Flight::same(rows_of.get(), rows_of_bf16.get()));
    CHECK(Flight::same(read(d, dz), rounded(slope.get())));
  }
}

TEST_CASE("bf16: a tensor is not read in another type than it is stored in") {
  float values[2] = {1, 2};
  const Tensor t{values, {1, 1, 1, 2}, Storage::bf16};
  CHECK_THROWS_AS(t.as<float>(), Error);
  CHECK(t.bytes() == 4);
  CHECK(t.floats() == 1);
}
