// The pipeline in motion: what a stage computes, in any executor, is what the method says and nothing else.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "engine/random.h"
#include "engine/safetensors.h"
#include "layers/layers.h"
#include "models/models.h"
#include "models/weights.h"
#include "pipeline/trainer.h"

using namespace pipecast;

namespace {

// Four parts, as tests/golden/make_pipeline.py has them. Without batch normalisation a sample's gradient does not depend on
// its neighbours, so that micro-batches must change nothing.
Graph tiny_graph(bool normalise = true, int64_t classes = 5, Shape image = {1, 6, 6, 3}) {
  Graph g("tiny", image);
  int normalised = 0;
  auto block = [&](int x, int number, int64_t in, int64_t out, int64_t stride, int residual) {
    std::string n = std::to_string(number);
    int y = g.add(convolution("conv" + n, {.in = in, .out = out, .kernel = 3, .stride = stride, .padding = 1, .bias = !normalise}), {x});
    std::vector<int> inputs = {y};
    if (residual >= 0) inputs.push_back(residual);
    if (normalise) return g.add(batch_norm("bn" + n, {.channels = out, .relu = true, .add = residual >= 0}), inputs);
    if (residual >= 0) y = g.add(add("add" + n), inputs);
    return g.add(relu("relu" + std::to_string(++normalised)), {y});
  };
  g.part("stem");
  int x = block(0, 1, image.c, 4, 1, -1);
  g.part("residual");
  x = block(x, 2, 4, 4, 1, x);
  g.part("narrow");
  x = block(x, 3, 4, 6, 2, -1);
  g.part("head");
  x = g.add(global_average_pool("pool"), {x});
  g.add(linear("fc", 6, classes), {x});
  return g;
}

Dataset noise_data(int64_t count, Shape image = {1, 6, 6, 3}, int64_t classes = 5) {
  Dataset d{"noise", image, classes, {}, {}, {}, {}};
  Random random{7, purpose("noise"), 0};
  d.mean.assign(image.c, 0.5f), d.deviation.assign(image.c, 0.25f);
  for (int64_t i = 0; i < count; ++i) d.train.labels.push_back(int32_t(random.below(1000000 + i, uint32_t(classes))));
  for (int64_t i = 0; i < count * image.count(); ++i) d.train.pixels.push_back(uint8_t(random.below(i, 256)));
  return d;
}

TrainerOptions tiny_options(int stages, const std::string& optimizer = "sgd") {
  TrainerOptions o;
  o.stages = stages;
  o.optimizer.name = optimizer;
  o.optimizer.weight_decay = optimizer == "sgd" ? 5e-4f : 0.01f;
  o.schedule = {.name = "constant", .rate = optimizer == "sgd" ? 0.05f : 0.01f};
  o.batch = 4;
  o.threads = stages;
  if (stages == 4) o.partition = {1, 1, 1, 1};
  return o;
}

Batches in_order(const Dataset& d, int64_t batch) { return Batches(d, d.train, batch, false, {}, 1); }

// Where this machine can run a pipeline.
std::vector<std::string> devices() { return gpu_present() ? std::vector<std::string>{"cpu", "cuda"} : std::vector<std::string>{"cpu"}; }

// The digest after training for `minibatches`, cut into programs of at most `fill` of them.
std::string digest_after(const TrainerOptions& o, const Dataset& d, int64_t minibatches, int64_t fill = 1 << 30, bool normalise = true) {
  std::vector<int64_t> sizes = {o.batch, d.train.size() % o.batch};
  Trainer trainer(tiny_graph(normalise), o, sizes[1] ? sizes : std::vector<int64_t>{o.batch});
  Batches batches = in_order(d, o.batch);
  for (int64_t at = 0; at < minibatches; at += fill) trainer.train(batches, at, std::min(minibatches, at + fill));
  return weights_digest(trainer.weights());
}

}  // namespace

TEST_CASE("ten updates on four stages equal an independent emulation in PyTorch") {
  SafeTensors golden = read_safetensors(std::string(GOLDEN_DIR) + "/pipeline.safetensors");
  Dataset data{"golden", {1, 6, 6, 3}, 5, {}, {}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};
  data.train.pixels = golden.tensors.at("pixels").bytes;
  const FileTensor& labels = golden.tensors.at("labels");
  for (int64_t i = 0; i < labels.count(); ++i) data.train.labels.push_back(labels.bytes[i * 8]);  // I64 below 256
  auto with_prefix = [&](const std::string& prefix) {
    SafeTensors s;
    for (const auto& [name, tensor] : golden.tensors)
      if (name.rfind(prefix + "/", 0) == 0) s.tensors[name.substr(prefix.size() + 1)] = tensor;
    return s;
  };

  for (std::string device : devices())
    for (std::string optimizer : {"sgd", "adamw"})
      for (std::string mode : {"vanilla", "pipedream", "pipedream-2bw", "paper", "exact", "decayed"}) {
        CAPTURE(device);
        CAPTURE(optimizer);
        CAPTURE(mode);
        TrainerOptions o = tiny_options(4, optimizer);
        o.device = device;
        const std::vector<std::string> modes = look_ahead_modes();
        const bool predicts = std::count(modes.begin(), modes.end(), mode) > 0;
        o.method = predicts ? "pipeoptim" : mode;
        if (predicts) o.look_ahead = look_ahead_mode(mode);
        if (mode == "pipedream-2bw") o.micro_batches = 4;
        o.schedule.name = "cosine", o.schedule.epochs = 2.5;  // of four updates each: ten
        Trainer trainer(tiny_graph(), o);
        trainer.set_weights(from_safetensors(trainer.graph(), with_prefix("initial"), "golden"));
        Batches batches = in_order(data, 4);
        trainer.train(batches, 0, 10);

        SafeTensors got = to_safetensors(trainer.weights()), want = with_prefix(optimizer + " " + mode);
        REQUIRE(got.tensors.size() == want.tensors.size());
        for (const auto& [name, tensor] : want.tensors) {
          CAPTURE(name);
          REQUIRE(got.tensors.count(name) == 1);
          if (tensor.type == "I64") {
            CHECK(got.tensors[name].bytes == tensor.bytes);
            continue;
          }
          std::vector<float> a = got.tensors[name].floats(), b = tensor.floats();
          double largest = 0;
          // A running mean is a sum that cancels: its scale is the spread of what it is the mean of.
          const bool mean = name.ends_with("running_mean");
          for (float x : mean ? want.tensors[name.substr(0, name.size() - 4) + "var"].floats() : b)
            largest = std::max(largest, mean ? std::sqrt(double(x)) : double(std::fabs(x)));
          for (size_t i = 0; i < b.size(); ++i) CHECK(std::fabs(a[i] - b[i]) <= 1e-4 * std::max(double(std::fabs(b[i])), 0.01 * largest));
        }
      }
}

TEST_CASE("the same seed gives the same bits, in threads and in sequence, run after run") {
  Dataset data = noise_data(22);  // mini-batches of 4, the last one short
  for (std::string device : devices())
    for (std::string optimizer : {"sgd", "adam", "adamw"})
      for (std::string method : {"vanilla", "pipeoptim", "pipedream"})
        for (int stages : {1, 2, 4}) {
          TrainerOptions o = tiny_options(stages, optimizer);
          o.device = device;
          o.method = method;
          std::string first = digest_after(o, data, 14);
          CHECK(first == digest_after(o, data, 14));
          o.executor = "sequential";
          CHECK(first == digest_after(o, data, 14));
          o.seed = 2;
          CHECK(first != digest_after(o, data, 14));
        }
}

TEST_CASE("a drained pipeline that refills, and one that never drains, differ only where lag makes them") {
  Dataset data = noise_data(20);
  for (int stages : {1, 4}) {
    TrainerOptions o = tiny_options(stages);
    o.method = "vanilla";
    CHECK((digest_after(o, data, 15) == digest_after(o, data, 15, 5)) == (stages == 1));
  }
}

TEST_CASE("programs shorter than the pipeline, single mini-batches, short batches") {
  Dataset data = noise_data(6);  // one mini-batch of 4 and one of 2
  for (std::string method : {"vanilla", "pipeoptim"}) {
    TrainerOptions o = tiny_options(4), one = tiny_options(1);
    o.method = one.method = method;
    o.look_ahead = LookAheadMode::exact;  // `paper` predicts even where there is no lag
    // Drained after every mini-batch there is no lag left, and four stages are one.
    CHECK(digest_after(o, data, 5, 1) == digest_after(one, data, 5, 1));
    CHECK(digest_after(o, data, 5, 2) != digest_after(one, data, 5, 2));
  }
}

TEST_CASE("micro-batches add up to the gradient of the mini-batch") {
  Dataset data = noise_data(9);  // of batch 4: 4, 4, 1; cut in three, the last has empty micro-batches
  TrainerOptions whole = tiny_options(1), cut = tiny_options(1);
  cut.micro_batches = 3;
  auto train = [&](const TrainerOptions& o) {
    Trainer t(tiny_graph(false), o, {4, 1});
    Batches batches = in_order(data, 4);
    Outcome outcome = t.train(batches, 0, 3);
    return std::make_pair(outcome, t.weights().parameter_values);
  };
  auto [a, wa] = train(whole);
  auto [b, wb] = train(cut);
  CHECK(a.samples == 9);
  CHECK(b.samples == 9);
  CHECK(a.loss == doctest::Approx(b.loss).epsilon(1e-6));
  for (size_t i = 0; i < wa.size(); ++i) CHECK(wa[i] == doctest::Approx(wb[i]).epsilon(1e-5));
}

TEST_CASE("the synchronous methods give the gradient of one stage; PipeDream-2BW does not know how many stages there are") {
  Dataset data = noise_data(27);  // of batch 8: 8, 8, 8, 3
  auto train = [&](const std::string& method, int stages) {
    TrainerOptions o = tiny_options(stages);
    o.method = method, o.micro_batches = 4, o.batch = 8;
    Trainer t(tiny_graph(false), o, {8, 3});
    Batches batches = in_order(data, 8);
    t.train(batches, 0, 10);
    return t.weights();
  };
  for (std::string method : {"gpipe", "1f1b-flush", "pipedream-2bw"})
    for (int stages : {2, 4}) {
      CAPTURE(method);
      CAPTURE(stages);
      CHECK(weights_digest(train(method, stages)) == weights_digest(train(method, 1)));
    }
  // The order in which the micro-batches' gradients are added differs.
  std::vector<float> a = train("gpipe", 4).parameter_values, b = train("1f1b-flush", 4).parameter_values;
  for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-5));
}

TEST_CASE("evaluation reads the latest weights and changes nothing") {
  Dataset data = noise_data(11);
  TrainerOptions o = tiny_options(4);
  Trainer four(tiny_graph(), o, {4, 3});
  Batches batches = in_order(data, 4);
  four.train(batches, 0, 7);
  Weights trained = four.weights();
  std::vector<float> logits, again;
  Outcome outcome = four.evaluate(batches, &logits);
  CHECK(weights_digest(four.weights()) == weights_digest(trained));
  CHECK(logits.size() == 55);
  CHECK(outcome.samples == 11);

  // By hand: softmax cross-entropy and hits from the logits.
  double loss = 0, hits = 0;
  for (int64_t i = 0; i < 11; ++i) {
    const float* row = logits.data() + i * 5;
    double sum = 0;
    for (int c = 0; c < 5; ++c) sum += std::exp(double(row[c]));
    loss += std::log(sum) - row[data.train.labels[i]];
    hits += std::max_element(row, row + 5) - row == data.train.labels[i];
  }
  CHECK(outcome.loss == doctest::Approx(loss / 11).epsilon(1e-5));
  CHECK(outcome.accuracy == doctest::Approx(hits / 11));

  Trainer one(tiny_graph(), tiny_options(1), {4, 3});
  one.set_weights(trained);
  one.evaluate(batches, &again);
  for (size_t i = 0; i < logits.size(); ++i) CHECK(logits[i] == doctest::Approx(again[i]).epsilon(1e-5));
}

TEST_CASE("reports: copies, frames, busy shares, prediction error") {
  Dataset data = noise_data(40);
  Trainer trainer(tiny_graph(), tiny_options(4));
  Batches batches = in_order(data, 4);
  int64_t calls = 0;
  trainer.train(batches, 0, 30, [&](int64_t done) {
    CHECK(done == ++calls);
    CHECK(trainer.mean_loss() > 0);
  });
  CHECK(calls == 30);
  CHECK(trainer.updates() == 30);
  std::vector<StageSummary> s = trainer.summaries();
  for (int k = 0; k < 4; ++k) {
    CHECK(s[k].copies == (k < 3 ? 2 : 1));
    CHECK(s[k].frames == 4 - k);
    CHECK(s[k].busy_share > 0);
    CHECK(s[k].busy_share <= 1);
    CHECK(s[k].parts == std::vector<std::pair<int, int>>{{k, 1}});
    CHECK((s[k].prediction_error > 0) == (k < 3));
    CHECK(s[k].memory.weights >= s[k].parameters * s[k].copies);
  }
}

TEST_CASE("values that cross several stages, and values read by several later stages, get their whole gradient") {
  // a is read by b and, beside it over three boundaries and twice, by d; b by c and by the head.
  Dataset data = noise_data(8, {1, 5, 5, 3});
  auto train = [&](int stages, std::vector<int> partition) {
    TrainerOptions o = tiny_options(1);
    o.stages = stages, o.partition = partition, o.threads = stages;
    o.method = "vanilla";
    Graph g("skips", {1, 5, 5, 3});
    auto conv = [&](const char* name, int64_t in, int x) {
      return g.add(convolution(name, {.in = in, .out = 4, .kernel = 3, .padding = 1, .bias = true}), {x});
    };
    g.part("a");
    int a = conv("a", 3, 0);
    g.part("b");
    int b = g.add(relu("rb"), {conv("b", 4, a)});
    g.part("c");
    int c = g.add(relu("rc"), {conv("c", 4, b)});
    g.part("d");
    int d = g.add(add("d"), {c, a, a});
    g.part("head");
    int cat = g.add(concatenation("cat"), {d, b});
    g.add(linear("fc", 8, 5), {g.add(global_average_pool("p"), {cat})});
    Trainer t(std::move(g), o);
    Batches batches = in_order(data, 4);
    for (int64_t i = 0; i < 6; ++i) t.train(batches, i, i + 1);  // drained each time: no lag
    return weights_digest(t.weights());
  };
  std::string whole = train(1, {5});
  CHECK(train(2, {1, 4}) == whole);
  CHECK(train(3, {2, 1, 2}) == whole);
  CHECK(train(5, {1, 1, 1, 1, 1}) == whole);
}

TEST_CASE("a failing stage stops the others and its error comes out") {
  Dataset data = noise_data(8);
  for (std::string executor : {"threads", "sequential"}) {
    TrainerOptions o = tiny_options(4);
    o.executor = executor;
    Trainer trainer(tiny_graph(), o);
    Batches batches = in_order(data, 4);
    CHECK_THROWS_WITH_AS(trainer.train(batches, 0, 6,
                                       [](int64_t done) {
                                         if (done == 3) throw Error("the disk is full");
                                       }),
                         "the disk is full", Error);
  }
}

TEST_CASE("options that do not fit are refused with a sentence") {
  TrainerOptions o = tiny_options(5);
  CHECK_THROWS_AS(Trainer(tiny_graph(), o), UsageError);
  o = tiny_options(4);
  o.partition = {1, 1, 1};
  CHECK_THROWS_AS(Trainer(tiny_graph(), o), UsageError);
  o.partition = {1, 1, 1, 2};
  CHECK_THROWS_AS(Trainer(tiny_graph(), o), UsageError);
  o = tiny_options(2);
  o.method = "pipeoptin";
  CHECK_THROWS_WITH_AS(Trainer(tiny_graph(), o), doctest::Contains("pipeoptim"), UsageError);
  o = tiny_options(2);
  o.executor = "thread";
  CHECK_THROWS_WITH_AS(Trainer(tiny_graph(), o), doctest::Contains("threads"), UsageError);
  o = tiny_options(1);
  o.batch = 0;
  CHECK_THROWS_AS(Trainer(tiny_graph(), o), UsageError);
}

TEST_CASE("costs: every part costs something, by estimate and by measure") {
  Graph g = tiny_graph();
  std::vector<double> estimated = estimated_costs(g, 4), measured = measured_costs(g, 4, "cpu", 1);
  REQUIRE(estimated.size() == 4);
  REQUIRE(measured.size() == 4);
  for (int k = 0; k < 4; ++k) {
    CHECK(estimated[k] > 0);
    CHECK(measured[k] > 0);
  }
}
