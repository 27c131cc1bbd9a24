// A section's ways to run a pass: backward in two halves, statistics of a mini-batch from its micro-batches, a forward replayed, kernels
// recorded and replayed.
#include "engine/graph_capture.h"
#include "layer_harness.h"
#include "section_values.h"
#include "layers/layers.h"
#include "pipeline/run/section.h"

using namespace pipecast;
using namespace pipecast::testing;

namespace {

Values read(Device device, const float* data, int64_t n) {
  Values values(size_t(n), 0.f);
  copy(device, values.data(), data, values.size() * sizeof(float));
  synchronize(device);
  return values;
}
void write(Device device, float* to, const Values& values) {
  copy(device, to, values.data(), values.size() * sizeof(float));
  synchronize(device);
}

// Values read twice within a section (2, 9), on both sides of the cut (4) and across the cut twice (5); outputs of layers that
// split read by layers that do and by layers that do not.
constexpr int cut = 5, nodes = 13;
Graph branching() {
  Graph graph("branching", {1, 6, 6, 3});
  auto conv = [](const char* name, int64_t in, int64_t out, int64_t kernel, bool bias = false) {
    return convolution(name, {.in = in, .out = out, .kernel = kernel, .padding = kernel / 2, .bias = bias});
  };
  graph.part("first");
  graph.add(conv("conv1", 3, 4, 3, true), {0});
  graph.add(batch_norm("bn1", {.channels = 4, .relu = true}), {1});
  graph.add(conv("conv2", 4, 4, 3), {2});
  graph.add(batch_norm("bn2", {.channels = 4, .relu = true, .add = true}), {3, 2});
  graph.add(conv("conv3", 4, 4, 1), {4});
  graph.part("second");
  graph.add(dropout("drop", 0.3f), {5});
  graph.add(add("sum1"), {6, 4, 5});
  graph.add(max_pool("pool", {}), {7});
  graph.add(conv("conv4", 4, 6, 3), {8});
  graph.add(conv("conv5", 6, 6, 1, true), {9});
  graph.add(add("sum2"), {9, 10});
  graph.add(global_average_pool("average"), {11});
  graph.add(linear("fc", 6, 5), {12});
  return graph;
}

constexpr int64_t most = 3;  // samples of a pass
constexpr int frames = 3;

// A section with its buffers: noise for weights, gradients of 0, variances of 1.
struct PieceOfModel {
  PieceOfModel(Device device, const Graph& graph, int first, int last, bool split)
      : device(device),
        section(device, graph, first, last, {most - 1, most}, frames, {Storage::fp32, split}),
        weight(device, section.parameters().total),
        gradient(device, section.parameters().total),
        statistic(device, section.statistics().total),
        weights(section.bind_parameters(weight.data())),
        gradients(section.bind_parameters(gradient.data())),
        statistics(section.bind_statistics(statistic.data())) {
    write(device, weight.data(), noise(weight.size(), uint64_t(5 + first)));
    write(device, statistic.data(), Values(size_t(statistic.size()), 1.f));
  }

  void forward(int frame, int64_t batch, const PassOptions& options) { section.forward(frame, batch, weights, statistics, options); }
  void backward(int frame, int64_t batch, const PassOptions& options, Half half) {
    section.backward(frame, batch, weights, gradients, statistics, options, half);
  }
  Values gradient_values() const { return read(device, gradient.data(), gradient.size()); }
  Values statistic_values() const { return read(device, statistic.data(), statistic.size()); }

  Device device;
  Section section;
  Memory weight, gradient, statistic;
  Binding weights, gradients, statistics;
};

// The graph in two sections. Pass p has its own samples, output gradients and masks, and p + 2 samples at most `most`.
class Pipeline {
 public:
  explicit Pipeline(Device device, bool split = false) : device_(device), graph_(branching()) {
    parts_.push_back(std::make_unique<PieceOfModel>(device, graph_, 0, cut, split));
    parts_.push_back(std::make_unique<PieceOfModel>(device, graph_, cut, nodes, split));
  }

  // Returns the model's output.
  Values forward(int pass, int frame, PassOptions options = {}) {
    options.seed = 7, options.step = uint64_t(pass);
    const int64_t batch = size(pass);
    Section &a = parts_[0]->section, &b = parts_[1]->section;
    const Tensor input = input_of(a, frame, 0, batch);
    write(device_, input.as<float>(), noise(input.shape.count(), uint64_t(20 + pass)));
    parts_[0]->forward(frame, batch, options);
    for (size_t i = 0; i < a.outputs().size(); ++i) hand_over(output_of(a, frame, i, batch), input_of(b, frame, i, batch));
    parts_[1]->forward(frame, batch, options);
    const Tensor output = output_of(b, frame, 0, batch);
    return read(device_, output.as<float>(), output.shape.count());
  }
  void backward(int pass, int frame, Half half = Half::both) {
    const PassOptions options{.seed = 7, .step = uint64_t(pass)};
    const int64_t batch = size(pass);
    Section &a = parts_[0]->section, &b = parts_[1]->section;
    if (half != Half::weight) {
      const Tensor gradient = output_gradient_of(b, frame, 0, batch);
      write(device_, gradient.as<float>(), noise(gradient.shape.count(), uint64_t(40 + pass)));
    }
    parts_[1]->backward(frame, batch, options, half);
    if (half != Half::weight)
      for (size_t i = 0; i < a.outputs().size(); ++i) hand_over(input_gradient_of(b, i, batch), output_gradient_of(a, frame, i, batch));
    parts_[0]->backward(frame, batch, options, half);
  }

  // Of both sections, one after the other.
  Values gradients() const { return both(&PieceOfModel::gradient_values); }
  Values statistics() const { return both(&PieceOfModel::statistic_values); }
  const PieceOfModel& part(size_t i) const { return *parts_[i]; }

 private:
  static int64_t size(int pass) { return pass == 1 ? most - 1 : most; }
  void hand_over(const Tensor& from, const Tensor& to) {
    REQUIRE(from.shape == to.shape);
    copy(device_, to.data, from.data, from.bytes());
  }
  Values both(Values (PieceOfModel::*of)() const) const {
    Values all = (*parts_[0].*of)();
    const Values more = (*parts_[1].*of)();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  Device device_;
  Graph graph_;
  std::vector<std::unique_ptr<PieceOfModel>> parts_;
};

}  // namespace

TEST_CASE("a backward in halves makes the bits of the whole one, with other passes in between") {
  for (const TestDevice& on : test_devices()) {
    INFO(on.name);
    Pipeline whole(on.device), halves(on.device, true), in_turn(on.device, true), unsplit(on.device);
    for (int pass : {0, 1}) {
      const Values output = whole.forward(pass, pass);
      for (Pipeline* other : {&halves, &in_turn, &unsplit}) CHECK(Flight::same(other->forward(pass, pass), output));
    }
    whole.backward(0, 0), whole.backward(1, 1);
    const Values expected = whole.gradients();

    // Every weight half finds the arena in the state that another pass left.
    halves.backward(0, 0, Half::input), halves.backward(1, 1, Half::input);
    CHECK(!Flight::same(halves.gradients(), expected));
    halves.forward(2, 2);
    halves.backward(0, 0, Half::weight), halves.backward(1, 1, Half::weight);
    CHECK(Flight::same(halves.gradients(), expected));

    in_turn.backward(0, 0, Half::input);
    in_turn.forward(2, 2);
    in_turn.backward(0, 0, Half::weight);
    in_turn.backward(1, 1);  // the whole at once
    CHECK(Flight::same(in_turn.gradients(), expected));

    // A section that was not made to split leaves nothing for the weight half.
    for (int pass : {0, 1}) unsplit.backward(pass, pass, Half::input);
    CHECK(Flight::same(unsplit.gradients(), expected));
    for (int pass : {0, 1}) unsplit.backward(pass, pass, Half::weight);
    CHECK(Flight::same(unsplit.gradients(), expected));
  }
}

TEST_CASE("the input half leaves the parameters of convolutions and linear layers alone, and finishes batch norm's") {
  Pipeline whole({}), halves({}, true);
  for (Pipeline* p : {&whole, &halves}) p->forward(0, 0);
  whole.backward(0, 0);
  halves.backward(0, 0, Half::input);
  for (size_t k : {0, 1}) {
    const Segments& segments = whole.part(k).section.parameters();
    const Values expected = whole.part(k).gradient_values(), got = halves.part(k).gradient_values();
    for (size_t s = 0; s < segments.specs.size(); ++s) {
      INFO(segments.specs[s].name);
      const bool norm = segments.specs[s].name.starts_with("bn");
      for (int64_t i = segments.offsets[s]; i < segments.offsets[s] + segments.specs[s].count(); ++i)
        CHECK(got[size_t(i)] == (norm ? expected[size_t(i)] : 0));
    }
  }
}

TEST_CASE("halves cost the gradients of the outputs of the layers that split, in every frame, and nothing else") {
  const Pipeline whole({}), halves({}, true);
  const int64_t first = 3 * aligned(most * 6 * 6 * 4), second = 2 * aligned(most * 3 * 3 * 6) + aligned(most * 5);
  CHECK(halves.part(0).section.plan().frame == whole.part(0).section.plan().frame + first);
  CHECK(halves.part(1).section.plan().frame == whole.part(1).section.plan().frame + second);
  for (size_t k : {0, 1}) CHECK(halves.part(k).section.plan().arena <= whole.part(k).section.plan().arena);
}

// The frame holds another pass in between, so that all of it must be written again.
TEST_CASE("a replayed forward writes the same bits, dropout's too, and leaves the statistics") {
  for (const TestDevice& on : test_devices()) {
    for (bool deferred : {false, true}) {
      INFO(on.name, deferred ? ", deferred" : "");
      auto options = [&](int pass, bool replay) {
        return PassOptions{.deferred = deferred, .samples_before = pass == 0 ? 0 : pass == 1 ? 3 : 5, .replay = replay};
      };
      Pipeline once(on.device), twice(on.device);
      const Values output = once.forward(0, 0, options(0, false));
      once.forward(1, 1, options(1, false));
      once.backward(0, 0);

      CHECK(Flight::same(twice.forward(0, 0, options(0, false)), output));
      twice.forward(1, 0, options(1, false));
      CHECK(Flight::same(twice.statistics(), once.statistics()));
      CHECK(Flight::same(twice.forward(0, 0, options(0, true)), output));
      CHECK(Flight::same(twice.statistics(), once.statistics()));
      twice.backward(0, 0);
      CHECK(Flight::same(twice.gradients(), once.gradients()));

      // Nor does it show in what the next micro-batch adds.
      once.forward(2, 2, options(2, false));
      twice.forward(2, 2, options(2, false));
      CHECK(Flight::same(twice.statistics(), once.statistics()));
    }
  }
}

namespace {

Graph only(std::unique_ptr<Layer> layer, Shape input) {
  Graph graph("only", input);
  graph.part("only");
  graph.add(std::move(layer), {0});
  return graph;
}

const Shape sample{1, 3, 2, 5};

// Batch norm alone, as a section. The running statistics and the counter begin at 1.
struct Norm {
  explicit Norm(Device device, BatchNormOptions options = {.channels = sample.c})
      : device(device),
        graph(only(batch_norm("bn", options), sample)),
        section(device, graph, 0, 1, {1, 2, 3, 4, 5, 7, 10}, 1),
        weight(device, section.parameters().total),
        statistic(device, section.statistics().total),
        weights(section.bind_parameters(weight.data())),
        statistics(section.bind_statistics(statistic.data())) {
    write(device, weight.data(), noise(weight.size(), 4));
    write(device, statistic.data(), Values(size_t(statistic.size()), 1.f));
  }
  // Feeds a mini-batch in micro-batches of these sizes, the empty ones left out, and returns the output.
  Values feed(const Values& x, const std::vector<int64_t>& sizes, bool deferred) {
    Values y;
    int64_t samples = 0;
    for (int64_t size : sizes) {
      if (size == 0) continue;
      const Tensor in = input_of(section, 0, 0, size), out = output_of(section, 0, 0, size);
      const int64_t floats = in.shape.count(), begin = samples * (floats / size);
      write(device, in.as<float>(), {x.begin() + begin, x.begin() + begin + floats});
      section.forward(0, size, weights, statistics, {.deferred = deferred, .samples_before = samples});
      const Values part = read(device, out.as<float>(), floats);
      y.insert(y.end(), part.begin(), part.end());
      samples += size;
    }
    return y;
  }
  // mean, variance and counter
  std::vector<Values> running() const {
    std::vector<Values> all;
    const Segments& s = section.statistics();
    for (size_t k = 0; k < s.specs.size(); ++k) all.push_back(read(device, statistic.data() + s.offsets[k], s.specs[k].count()));
    return all;
  }

  Device device;
  Graph graph;
  Section section;
  Memory weight, statistic;
  Binding weights, statistics;
};

void check_running(const std::string& what, const Norm& got, const Norm& expected, double bound) {
  const std::vector<Values> a = got.running(), b = expected.running();
  for (size_t k : {0, 1}) check_close(indexed(what, k), a[k], b[k], bound);
  CHECK(a[2] == b[2]);
}

}  // namespace

TEST_CASE("deferred statistics are those of the whole mini-batch") {
  const std::vector<std::vector<int64_t>> cuts = {{3, 3, 4}, {1, 7, 2}, {0, 5, 0, 5}, {5, 5, 0, 0}, {0, 0, 10}, {1, 1, 1, 1, 1, 5}};
  for (const TestDevice& on : test_devices()) {
    for (const std::vector<int64_t>& cut : cuts) {
      Norm whole(on.device), parts(on.device), each(on.device);
      uint64_t seed = 0;
      // Of the second mini-batch there is one sample: all but the last of four micro-batches are empty.
      const std::vector<std::vector<int64_t>> minibatches = {cut, {0, 0, 0, 1}, cut};
      for (const std::vector<int64_t>& micro : minibatches) {
        const int64_t batch = std::accumulate(micro.begin(), micro.end(), int64_t(0));
        const Values x = noise(batch * sample.count(), ++seed);  // so few rows that the means of the micro-batches differ
        whole.feed(x, {batch}, false);
        // They normalise with their own statistics, as micro-batches that are not deferred do.
        CHECK(Flight::same(parts.feed(x, micro, true), each.feed(x, micro, false)));
        check_running(on.name, parts, whole, 1e-6);
      }
      CHECK(parts.running()[2] == Values{4});
    }
  }
}

TEST_CASE("a deferred mini-batch that is one micro-batch has the bits of one that is not deferred") {
  for (const TestDevice& on : test_devices()) {
    Norm plain(on.device), deferred(on.device);
    for (int64_t batch : {10, 4, 1}) {
      const Values x = noise(batch * sample.count(), uint64_t(batch));
      plain.feed(x, {batch}, false);
      deferred.feed(x, {batch}, true);
      for (size_t k : {0, 1, 2}) CHECK(Flight::same(deferred.running()[k], plain.running()[k]));
    }
  }
}

// Of x itself, squares near 2^24 would leave nothing of a variance near 1.
TEST_CASE("deferred statistics keep their digits where the mean is far above the deviation") {
  for (const TestDevice& on : test_devices()) {
    Values x = noise(10 * sample.count(), 1), far = x;
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::round(x[i] * 0x1p8f) * 0x1p-8f, far[i] = x[i] + 4096;
    Norm near(on.device), parts(on.device);
    near.feed(x, {10}, false);
    parts.feed(far, {3, 3, 4}, true);
    check_close(on.name, parts.running()[1], near.running()[1], 1e-5);
  }
}

TEST_CASE("deferred statistics are PyTorch's of the whole batch") {
  const SafeTensors file = read_safetensors(GOLDEN_DIR "/layers.safetensors");
  for (const auto& [name, options] : {std::pair<std::string, BatchNormOptions>{"batch_norm", {.channels = 5}},
                                      {"batch_norm_options", {.channels = 5, .epsilon = 1e-2f, .momentum = 0.3f}}}) {
    auto values = [&](const std::string& key) { return file.tensors.at(name + "/" + key).floats(); };
    const std::vector<std::string> keys = {"running_mean", "running_var", "num_batches_tracked"};
    for (const TestDevice& on : test_devices()) {
      for (const std::vector<int64_t>& micro : std::vector<std::vector<int64_t>>{{1, 1, 1}, {1, 2}, {2, 0, 1}}) {
        Norm norm(on.device, options);
        const Segments& s = norm.section.statistics();
        for (size_t k = 0; k < keys.size(); ++k) write(on.device, norm.statistic.data() + s.offsets[k], values("before." + keys[k]));
        norm.feed(values("x0"), micro, true);
        for (size_t k = 0; k < keys.size(); ++k)
          check_close(name + " " + keys[k] + " on " + on.name, norm.running()[k], values("after." + keys[k]), 1e-6);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Outputs that are left unwritten

TEST_CASE("a normalised value that one convolution reads takes no memory, and the bits are those of a cut, where it is written") {
  constexpr int64_t batch = 8;
  const Shape image = {1, 8, 8, 16};
  Graph graph("normalising", image);
  graph.part("all");
  const ConvolutionOptions options{.in = 16, .out = 16, .kernel = 3, .padding = 1};
  graph.add(convolution("conv1", options), {0});
  graph.add(batch_norm("bn1", {.channels = 16, .relu = true}), {1});
  graph.add(convolution("conv2", options), {2});
  graph.add(convolution("conv3", options), {3});
  const int64_t value = image.count() * batch, norm = 4 * 16;

  struct PieceOfModel {
    PieceOfModel(const Graph& graph, int first, int last)
        : section(Device{}, graph, first, last, {batch}, 1),
          weight(Device{}, section.parameters().total),
          gradient(Device{}, weight.size()),
          statistic(Device{}, section.statistics().total),
          weights(section.bind_parameters(weight.data())),
          gradients(section.bind_parameters(gradient.data())),
          statistics(section.bind_statistics(statistic.data())) {
      initialize(section.parameters(), 3, weight.data());
      initialize(section.statistics(), 3, statistic.data());
    }
    Section section;
    Memory weight, gradient, statistic;
    Binding weights, gradients, statistics;
  };
  PieceOfModel whole(graph, 0, 4), before(graph, 0, 2), after(graph, 2, 4);
  if (!graph.nodes()[2].layer->takes_normalised()) {
    MESSAGE("skipped: this machine's convolution does not normalise its input");
    return;
  }
  // What the three convolutions and the normalisation read, and the model's output: not what the second convolution would read.
  CHECK(whole.section.plan().frame == 4 * value + norm);

  for (bool training : {true, false}) {
    CAPTURE(training);
    const PassOptions options{.training = training};
    const Values x = noise(value, 1), dy = noise(value, 2);
    auto put = [](Tensor to, const Values& values) { write(Device{}, to.as<float>(), values); };
    auto get = [](Tensor from) { return read(Device{}, from.as<float>(), from.shape.count()); };
    put(input_of(whole.section, 0, 0, batch), x), put(input_of(before.section, 0, 0, batch), x);
    whole.section.forward(0, batch, whole.weights, whole.statistics, options);
    before.section.forward(0, batch, before.weights, before.statistics, options);
    put(input_of(after.section, 0, 0, batch), get(output_of(before.section, 0, 0, batch)));
    after.section.forward(0, batch, after.weights, after.statistics, options);
    CHECK(get(output_of(whole.section, 0, 0, batch)) == get(output_of(after.section, 0, 0, batch)));
    if (!training) continue;

    put(output_gradient_of(whole.section, 0, 0, batch), dy), put(output_gradient_of(after.section, 0, 0, batch), dy);
    whole.section.backward(0, batch, whole.weights, whole.gradients, whole.statistics, options);
    after.section.backward(0, batch, after.weights, after.gradients, after.statistics, options);
    put(output_gradient_of(before.section, 0, 0, batch), get(input_gradient_of(after.section, 0, batch)));
    before.section.backward(0, batch, before.weights, before.gradients, before.statistics, options);
    Values expected = read(Device{}, before.gradient.data(), before.gradient.size());
    const Values rest = read(Device{}, after.gradient.data(), after.gradient.size());
    expected.insert(expected.end(), rest.begin(), rest.end());
    CHECK(read(Device{}, whole.gradient.data(), whole.gradient.size()) == expected);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Passes that are recorded

namespace {

#ifdef PIPECAST_EMULATOR
class LaunchRecorder : public Recorder {
 public:
  void begin() override { captured = &records_.emplace_back(); }
  size_t end() override { return captured = nullptr, records_.size() - 1; }
  void abandon() noexcept override { captured = nullptr; }
  void replay(size_t number) override {
    for (const auto& launch : records_[number]) launch();
  }

 private:
  std::vector<std::vector<std::function<void()>>> records_;
};
std::unique_ptr<Recorder> recorder(Device device) { return device.gpu ? std::make_unique<LaunchRecorder>() : nullptr; }
#else
std::unique_ptr<Recorder> recorder(Device device) { return make_recorder(device); }
#endif

}  // namespace

// In every round the samples, the weights and the output gradients are others, in the same places. Each round's passes are done at once,
// recorded and replayed, or replayed; on a host without a recorder all are done at once.
TEST_CASE("recorded passes, replayed on other values in the same memory, make the bits of passes that are launched") {
  const Graph graph = branching();
  for (const TestDevice& on : test_devices()) {
    INFO(on.name);
    for (const auto& [first, last] : {std::pair(0, cut), {cut + 1, nodes}}) {  // without the dropout
      PieceOfModel plain(on.device, graph, first, last, true), recorded(on.device, graph, first, last, true);
      Replays<std::pair<int, int>> replays(recorder(on.device));
      for (uint64_t round = 0; round < 4; ++round) {
        for (int frame : {0, 1}) {
          const int64_t batch = most - frame;
          for (PieceOfModel* piece : {&plain, &recorded}) {
            const auto run = [&](int what, const auto& work) {
              if (piece == &plain) work();
              else replays.run({what, frame}, work);
            };
            uint64_t seed = 100 * round + uint64_t(frame);
            write(on.device, piece->weight.data(), noise(piece->weight.size(), ++seed));
            for (size_t i = 0; i < piece->section.inputs().size(); ++i) {
              const Tensor x = input_of(piece->section, frame, i, batch);
              write(on.device, x.as<float>(), noise(x.shape.count(), seed += 10));
            }
            run(0, [&] { piece->forward(frame, batch, {}); });
            for (size_t i = 0; i < piece->section.outputs().size(); ++i) {
              const Tensor dy = output_gradient_of(piece->section, frame, i, batch);
              if (dy.data) write(on.device, dy.as<float>(), noise(dy.shape.count(), seed += 10));
            }
            run(1, [&] { piece->backward(frame, batch, {}, Half::input); });
            run(2, [&] { piece->backward(frame, batch, {}, Half::weight); });
          }
          for (size_t i = 0; i < plain.section.outputs().size(); ++i) {
            const Tensor a = output_of(plain.section, frame, i, batch), b = output_of(recorded.section, frame, i, batch);
            CHECK(Flight::same(read(on.device, a.as<float>(), a.shape.count()), read(on.device, b.as<float>(), b.shape.count())));
          }
          CHECK(Flight::same(plain.gradient_values(), recorded.gradient_values()));
          CHECK(Flight::same(plain.statistic_values(), recorded.statistic_values()));
        }
      }
    }
  }
}
