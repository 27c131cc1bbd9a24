// Values that skip stages: from a stage directly to the next one that reads them, and their gradients directly back.
#include <doctest/doctest.h>

#include "engine/random.h"
#include "layers/layers.h"
#include "models/models.h"
#include "models/weights.h"
#include "picture_batches.h"
#include "pipeline/measure/plan.h"
#include "pipeline/plan/simulate.h"
#include "pipeline/train/trainer.h"

using namespace pipecast;
using testing::PictureBatches;

namespace {

constexpr Shape image = {1, 5, 5, 3};

int conv(Graph& g, const std::string& name, int64_t in, int x) {
  return g.add(convolution(name, {.in = in, .out = 4, .kernel = 3, .padding = 1, .bias = true}), {x});
}

// Five parts. `a` is read by b and, twice, by d; `b` by c and by the head.
Graph five_parts() {
  Graph g("skips", image);
  g.part("a");
  const int a = conv(g, "a", 3, 0);
  g.part("b");
  const int b = g.add(relu("rb"), {conv(g, "b", 4, a)});
  g.part("c");
  const int c = g.add(relu("rc"), {conv(g, "c", 4, b)});
  g.part("d");
  const int d = g.add(add("d"), {c, a, a});
  g.part("head");
  const int both = g.add(concatenation("both"), {d, b});
  add_classifier_loss(g, g.add(linear("fc", 8, 5), {g.add(global_average_pool("p"), {both})}), 0);
  return g;
}

// Eight parts, folded like a U-Net: part 3 + k adds what part 3 - k made.
Graph u_shape() {
  Graph g("u-shape", image);
  std::vector<int> down;
  int x = 0;
  for (int k = 0; k < 4; ++k) {
    g.part("down" + std::to_string(k));
    x = g.add(relu("rd" + std::to_string(k)), {conv(g, "down" + std::to_string(k), k == 0 ? 3 : 4, x)});
    down.push_back(x);
  }
  for (int k = 2; k >= 0; --k) {
    g.part("up" + std::to_string(k));
    x = g.add(add("sum" + std::to_string(k)),
              {g.add(relu("ru" + std::to_string(k)), {conv(g, "up" + std::to_string(k), 4, x)}), down[size_t(k)]});
  }
  g.part("head");
  add_classifier_loss(g, g.add(linear("fc", 4, 5), {g.add(global_average_pool("p"), {x})}), 0);
  return g;
}

PictureSet noise_data(int64_t count) {
  PictureSet d{"noise", image, 5, {}, {}, {}, {}};
  const Random random{7, purpose("noise"), 0};
  d.mean.assign(size_t(image.c), 0.5f), d.deviation.assign(size_t(image.c), 0.25f);
  for (int64_t i = 0; i < count; ++i) d.train.labels.push_back(int32_t(random.below(uint64_t(1000000 + i), 5)));
  for (int64_t i = 0; i < count * image.count(); ++i) d.train.pixels.push_back(uint8_t(random.below(uint64_t(i), 256)));
  return d;
}

TrainerOptions options(int stages, const std::string& method, std::vector<int> partition = {}) {
  TrainerOptions o;
  o.stages = stages, o.method = method, o.partition = std::move(partition), o.threads = stages;
  o.schedule = {.name = "constant", .rate = 0.05f};
  o.batch = 4;
  return o;
}

// After so many mini-batches, in programs of `fill`.
std::string digest_after(Graph graph, const TrainerOptions& o, int64_t minibatches, int64_t fill) {
  const PictureSet data = noise_data(8);
  Trainer trainer(std::move(graph), o);
  PictureBatches batches(data, data.train, o.batch, false, {}, 1);
  for (int64_t at = 0; at < minibatches; at += fill) trainer.train(batches, at, std::min(minibatches, at + fill));
  return weights_digest(trainer.weights());
}

std::vector<Program> programs_of(const std::string& method, const Setting& setting) { return make_programs(find_method(method), setting); }

}  // namespace

TEST_CASE("a value goes from each stage that has it to the next one that reads it") {
  const Layout layout(five_parts(), {1, 1, 1, 1, 1}, programs_of("vanilla", {5, 9, 1}));
  const Channels& channels = layout.channels();
  CHECK(channels.skips() == std::vector<Skip>{{1, 3}, {2, 4}});
  std::vector<std::vector<int>> values, gradients;
  for (const Crossing& crossing : layout.crossings()) values.push_back(crossing.values), gradients.push_back(crossing.gradients);
  // Value 0 is the image, 1 a, 2 b before its ReLU, 3 b, 4 c before its ReLU, 5 c, 6 d.
  const std::vector<std::vector<int>> expected = {{}, {1}, {3}, {5}, {6}, {1}, {3}};
  CHECK(values == expected);
  CHECK(gradients == expected);
  // Two channels between neighbours, and two for each skip.
  CHECK(channels.all().size() == 12);
  const Instruction send{.operation = Operation::send_activation, .minibatch = 2},
      receive{.operation = Operation::receive_gradient, .minibatch = 2};
  CHECK(channels.messages(0, send) == 1);
  CHECK(channels.messages(1, send) == 2);
  CHECK(channels.messages(4, send) == 0);
  const Message there = channels.message(1, send, 1), back = channels.message(1, receive, 1);
  CHECK(channels.all()[size_t(there.channel)].from == 1);
  CHECK(channels.all()[size_t(there.channel)].to == 3);
  CHECK(channels.all()[size_t(back.channel)].from == 3);
  CHECK(channels.all()[size_t(back.channel)].to == 1);
  CHECK(there.hop == 5);
  CHECK(back.hop == 5);
  const std::vector<TensorSpec> specs = five_parts().specs(PassShape(3));
  CHECK(layout.message_bytes(5, false, specs) == 3 * 5 * 5 * 4 * 4);

  // What part "down k" makes is read by the next part and by "up k": it goes on from there.
  const Layout folded(u_shape(), {1, 1, 1, 1, 1, 1, 1, 1},
                      programs_of("interleaved", {.stages = 4, .minibatches = 2, .micro_batches = 4, .chunks = 2}));
  CHECK(folded.channels().skips() == std::vector<Skip>{{1, 6}, {2, 5}});
}

TEST_CASE("values that skip stages and values with several readers get the gradient of one stage, bit for bit") {
  const std::string whole = digest_after(five_parts(), options(1, "vanilla", {5}), 6, 1);  // drained each time: no lag
  CHECK(digest_after(five_parts(), options(2, "vanilla", {1, 4}), 6, 1) == whole);
  CHECK(digest_after(five_parts(), options(3, "vanilla", {2, 1, 2}), 6, 1) == whole);
  CHECK(digest_after(five_parts(), options(5, "vanilla", {1, 1, 1, 1, 1}), 6, 1) == whole);
  const std::string u = digest_after(u_shape(), options(1, "vanilla"), 6, 1);
  for (int stages : {2, 4, 8}) CHECK(digest_after(u_shape(), options(stages, "vanilla"), 6, 1) == u);
}

TEST_CASE("AmoebaNet-D, of whose cells each reads two others, gets the gradient of one stage, bit for bit") {
  const auto digest = [](int stages) {
    return digest_after(make_model("amoebanet_d_3x8", {.image = image, .classes = 5}), options(stages, "vanilla"), 4, 1);
  };
  const std::string whole = digest(1);
  for (int stages : {2, 4, 8}) CHECK(digest(stages) == whole);
}

TEST_CASE("every method trains a model with skips, the same bits in threads and in sequence") {
  for (const Method& method : methods()) {
    TrainerOptions o = options(4, method.name);
    if (!method.optimizer.empty()) o.optimizer.name = method.optimizer, o.schedule.rate = 0.005f;
    if (method.chunks > 1 || method.name == "pipedream-2bw") o.micro_batches = 4;
    CAPTURE(method.name);
    const std::string threads = digest_after(u_shape(), o, 8, 8);
    o.executor = "sequential";
    CHECK(digest_after(u_shape(), o, 8, 8) == threads);
  }
}

TEST_CASE("skips are simulated on wires of their own, and planned") {
  // Three stages, one mini-batch, a byte a second: a border takes 1 s, the skip 5 s. Its message leaves stage 0 at 1 and arrives at 6;
  // stage 2 has that of stage 1 at 4. Backward takes 2 s: 7 to 9; the gradient of the skip is at stage 0 at 14, that of stage 1 at 13.
  Costs costs = uniform_costs(3, 1, 1, 2, 1);
  costs.link.bytes_per_second = 1;
  costs.skips.push_back({{0, 2}, 5, 5});
  std::vector<SimulatedPass> passes;
  const Simulation simulation = simulate(programs_of("gpipe", {3, 1, 1}), costs, &passes);
  for (const SimulatedPass& pass : passes) {
    if (pass.stage == 2 && pass.operation == Operation::forward) CHECK(pass.begin == doctest::Approx(6));
    if (pass.stage == 0 && pass.operation == Operation::backward) CHECK(pass.begin == doctest::Approx(14));
  }
  CHECK(simulation.seconds == doctest::Approx(16));
  costs.skips[0].skip.to = 1;
  CHECK_THROWS_AS(simulate(programs_of("gpipe", {3, 1, 1}), costs), UsageError);

  const Plan plan = make_plan(u_shape(), options(4, "vanilla"));
  REQUIRE(plan.run.costs.skips.size() > 0);
  const SimulatedRun read = read_plan(plan_json(plan));
  REQUIRE(read.costs.skips.size() == plan.run.costs.skips.size());
  for (size_t k = 0; k < read.costs.skips.size(); ++k) {
    CHECK(read.costs.skips[k].skip == plan.run.costs.skips[k].skip);
    CHECK(read.costs.skips[k].activation_bytes == 4 * 5 * 5 * 4 * 4);
    CHECK(read.costs.skips[k].gradient_bytes == 4 * 5 * 5 * 4 * 4);
  }
  // The run's forecast of memory counts the places of skips, too.
  const PictureSet data = noise_data(8);
  Trainer trainer(u_shape(), options(4, "vanilla"));
  int64_t links = 0;
  for (const PlannedStage& stage : plan.stages) links += stage.links;
  const Layout layout(u_shape(), plan.partition, programs_of("vanilla", {4, 20, 1}));
  int64_t expected = 0;
  for (size_t c = 0; c < layout.channels().all().size(); ++c)
    expected += layout.channel_floats(int(c), spec_tables(u_shape(), {PassShape(4)}, Storage::fp32));
  CHECK(links == expected);
}
