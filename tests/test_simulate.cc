// The simulation against figures computed by hand, and the plan against the run that it is made for.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>

#include "engine/error.h"
#include "engine/memory.h"
#include "models/models.h"
#include "pipeline/measure/layer_times.h"
#include "pipeline/measure/machine.h"
#include "pipeline/measure/measure.h"
#include "pipeline/measure/plan.h"
#include "pipeline/train/trainer.h"
#include "pipeline/plan/simulate.h"

using namespace pipecast;

namespace {

std::vector<Program> programs_of(const std::string& method, const Setting& setting) { return make_programs(find_method(method), setting); }

// Seconds from fill to drain where a forward takes a stage 1 second and a backward 2.
Simulation uniform(const std::string& method, const Setting& setting) {
  const std::vector<Program> programs = programs_of(method, setting);
  return simulate(programs, uniform_costs(setting.stages, chunks(programs), 1, 2, 0));
}

SimulatedPass find(const std::vector<SimulatedPass>& passes, int stage, Operation operation, int micro) {
  for (const SimulatedPass& pass : passes)
    if (pass.stage == stage && pass.operation == operation && pass.tag.micro == micro) return pass;
  FAIL("there is no such pass");
  return {};
}

std::string refusal(const auto& f) {
  try {
    f();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "(no error)";
}

}  // namespace

TEST_CASE("simulate: gpipe and 1f1b-flush wait (D - 1) / (M + D - 1) of the time") {
  for (int stages : {1, 2, 4, 7})
    for (int micro_batches : {1, 4, 8}) {
      CAPTURE(stages);
      CAPTURE(micro_batches);
      for (const char* method : {"gpipe", "1f1b-flush"}) {
        const Simulation s = uniform(method, {.stages = stages, .minibatches = 3, .micro_batches = micro_batches});
        CHECK(s.bubble_share == doctest::Approx((stages - 1.0) / (micro_batches + stages - 1)));
        CHECK(s.seconds == doctest::Approx(3 * 3 * (micro_batches + stages - 1)));
        CHECK(s.step_seconds == doctest::Approx(3 * (micro_batches + stages - 1)));
      }
    }
}

TEST_CASE("simulate: zero-bubble takes 3 M + D - 1 passes") {
  for (int stages : {1, 2, 4})
    for (int micro_batches : {4, 8}) {
      const Simulation s = uniform("zero-bubble", {.stages = stages, .minibatches = 1, .micro_batches = micro_batches});
      CHECK(s.seconds == doctest::Approx(3 * micro_batches + stages - 1));
    }
}

TEST_CASE("simulate: interleaving V chunks divides the bubble by V") {
  const Setting setting{.stages = 4, .minibatches = 1, .micro_batches = 8, .chunks = 2};
  CHECK(uniform("interleaved", setting).seconds == doctest::Approx(3 * 8 + 3 * 3 / 2.0));
  CHECK(uniform("1f1b-flush", {.stages = 4, .minibatches = 1, .micro_batches = 8}).seconds == doctest::Approx(3 * 8 + 3 * 3));
}

TEST_CASE("simulate: model parallelism shows every part of a message's way") {
  const std::vector<Program> programs = programs_of("model-parallel", {.stages = 4, .minibatches = 1});
  Costs costs = uniform_costs(4, 1, 1, 2, 10);
  CHECK(simulate(programs, costs).seconds == doctest::Approx(12));
  costs.link.latency = 0.25;  // 3 messages there, 3 back
  CHECK(simulate(programs, costs).seconds == doctest::Approx(12 + 6 * 0.25));
  costs.link.bytes_per_second = 20;
  CHECK(simulate(programs, costs).seconds == doctest::Approx(12 + 6 * (0.25 + 0.5)));
  costs.link.copy_bytes_per_second = 100;  // by sender and receiver; and the images
  const Simulation s = simulate(programs, costs);
  CHECK(s.seconds == doctest::Approx(12 + 6 * (0.25 + 0.5 + 2 * 0.1) + 0.1));
  for (const SimulatedStage& stage : s.stages) CHECK(stage.busy_seconds == doctest::Approx(3));
}

TEST_CASE("simulate: messages of one wire go one after another") {
  const std::vector<Program> programs = programs_of("gpipe", {.stages = 2, .minibatches = 1, .micro_batches = 2});
  Costs costs = uniform_costs(2, 1, 1, 2, 5);
  costs.link.bytes_per_second = 1;
  std::vector<SimulatedPass> passes;
  CHECK(simulate(programs, costs, &passes).seconds == doctest::Approx(26));
  CHECK(passes.size() == 8);
  CHECK(find(passes, 1, Operation::forward, 0).begin == doctest::Approx(6));    // sent at 1, under way until 6
  CHECK(find(passes, 1, Operation::forward, 1).begin == doctest::Approx(11));   // sent at 2, on the wire from 6 to 11
  CHECK(find(passes, 0, Operation::backward, 1).begin == doctest::Approx(19));  // sent at 14
  CHECK(find(passes, 0, Operation::backward, 0).begin == doctest::Approx(24));  // sent at 16, on the wire from 19 to 24
  CHECK(find(passes, 0, Operation::backward, 0).end == doctest::Approx(26));
}

TEST_CASE("simulate: a sender waits for a free place") {
  const std::vector<Program> programs = programs_of("gpipe", {.stages = 2, .minibatches = 1, .micro_batches = 5});
  Costs costs = uniform_costs(2, 1, 1, 2, 0);
  costs.stages[1].chunks[0].forward = 10;
  std::vector<SimulatedPass> passes;
  simulate(programs, costs, &passes);
  // Message 0 is taken at 1 and message 1 at 11, so message 2 is sent at 3 and message 3, ready at 4, at 11.
  CHECK(find(passes, 0, Operation::forward, 3).end == doctest::Approx(4));
  CHECK(find(passes, 0, Operation::forward, 4).begin == doctest::Approx(11));
}

TEST_CASE("simulate: without a flush the slowest stage sets the pace") {
  const std::vector<Program> programs = programs_of("vanilla", {.stages = 4, .minibatches = 60});
  Costs costs = uniform_costs(4, 1, 1, 2, 0);
  CHECK(simulate(programs, costs).step_seconds == doctest::Approx(3));
  for (StageCosts& stage : costs.stages) stage.step = 0.5;
  costs.stages[1].chunks[0].forward = 4;
  const Simulation s = simulate(programs, costs);
  CHECK(s.step_seconds == doctest::Approx(6.5));
  CHECK(s.stages[1].busy_seconds == doctest::Approx(60 * 6.5));
  CHECK(s.stages[2].busy_seconds == doctest::Approx(60 * 3.5));
}

TEST_CASE("simulate: what lies between the passes, by its count") {
  const int64_t n = 10;
  Costs costs = uniform_costs(2, 1, 0, 0, 0);
  for (StageCosts& stage : costs.stages) stage.step = 1, stage.step_and_predict = 100, stage.predict = 10000, stage.stash = 1000000;
  // Stage 0 predicts for its first two forwards before them, then with every step but the last two.
  const Simulation predicted = simulate(programs_of("pipeoptim", {.stages = 2, .minibatches = n}), costs);
  CHECK(predicted.stages[0].busy_seconds == 10000 + (n - 2) * 100 + 2);
  CHECK(predicted.stages[1].busy_seconds == n);
  // The weights of every forward but the last are overwritten before its backward on stage 0, except the last.
  const Simulation stashed = simulate(programs_of("pipedream", {.stages = 2, .minibatches = n}), costs);
  CHECK(stashed.stages[0].busy_seconds == n + (n - 1) * 1000000);
  CHECK(stashed.stages[1].busy_seconds == n);
  // Looking back is no part of the step.
  const Simulation back = simulate(programs_of("pipemare", {.stages = 2, .minibatches = n}), costs);
  CHECK(int64_t(back.stages[0].busy_seconds) % 10000 == n);
}

TEST_CASE("simulate: a recompute is a forward and moves the input twice") {
  const Setting setting{.stages = 1, .minibatches = 1, .recompute = Recompute::always};
  Costs costs = uniform_costs(1, 1, 1, 2, 0);
  costs.stages[0].chunks[0].input_bytes = 5;
  costs.link.copy_bytes_per_second = 10;
  CHECK(simulate(programs_of("vanilla", setting), costs).seconds == doctest::Approx(1 + 2 + 1 + 2 * 0.5));
}

TEST_CASE("simulate: memory is what the programs need at once") {
  for (const Method& method : methods())
    for (Recompute recompute : {Recompute::never, Recompute::except_last, Recompute::always}) {
      CAPTURE(method.name);
      CAPTURE(to_string(recompute));
      const std::vector<Program> programs =
          programs_of(method.name, {.stages = 3, .minibatches = 12, .micro_batches = 3, .recompute = recompute});
      Costs costs = uniform_costs(3, method.chunks, 1, 2, 0);
      for (StageCosts& stage : costs.stages) {
        stage.weight_bytes = 1000, stage.state_bytes = 300, stage.arena_bytes = 7;
        for (size_t c = 0; c < stage.chunks.size(); ++c) stage.chunks[c].frame_bytes = 10 + int64_t(c), stage.chunks[c].input_bytes = 3;
      }
      const Simulation s = simulate(programs, costs);
      for (size_t k = 0; k < 3; ++k) {
        CAPTURE(k);
        int64_t frames = 0, bytes = 0;
        for (int c = 0; c < method.chunks; ++c) {
          frames += frames_needed(programs[k], c);
          bytes += frames_needed(programs[k], c) * (10 + c) + inputs_needed(programs[k], c) * 3;
        }
        CHECK(s.stages[k].frames == frames);
        CHECK(s.stages[k].frame_bytes == bytes);
        CHECK(s.stages[k].copies == copies_needed(programs[k]));
        CHECK(s.stages[k].weight_bytes == 1000 * copies_needed(programs[k]));
        const int64_t state = looks_back(programs[k]) ? 1300 : 300;
        CHECK(s.stages[k].bytes() == s.stages[k].weight_bytes + 1000 + state + bytes + 7);
      }
    }
}

TEST_CASE("simulate: 1,024 stages") {
  const int stages = 1024, minibatches = 64, micro_batches = 4;
  const auto start = std::chrono::steady_clock::now();
  const Simulation s = uniform("pipeoptim", {.stages = stages, .minibatches = minibatches, .micro_batches = micro_batches});
  CHECK(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < 60);
  CHECK(s.seconds == doctest::Approx(3 * (minibatches * micro_batches + stages - 1)));
}

TEST_CASE("simulate: what it refuses") {
  const std::vector<Program> programs = programs_of("vanilla", {.stages = 2, .minibatches = 2});
  CHECK(refusal([&] { simulate(programs, uniform_costs(3, 1, 1, 2, 0)); }).find("3 stages") != std::string::npos);
  const std::vector<Program> interleaved = programs_of("interleaved", {.stages = 2, .minibatches = 1, .micro_batches = 2});
  CHECK(refusal([&] { simulate(interleaved, uniform_costs(2, 1, 1, 2, 0)); }).find("1 chunks") != std::string::npos);
  std::vector<Program> stuck = programs;
  stuck[0].clear();
  CHECK(refusal([&] { simulate(stuck, uniform_costs(2, 1, 1, 2, 0)); }).find("deadlock: stage 1") != std::string::npos);
}

TEST_CASE("plan: what it says of every stage is what a trainer takes, and the simulation of it too") {
  struct Case {
    const char* method;
    int micro_batches;
    Recompute recompute;
    const char* optimizer;
    const char* math = "fp32";
  };
  for (const Case& c : {Case{"pipeoptim", 1, Recompute::never, "sgd"}, Case{"pipeoptim", 2, Recompute::never, "sgd", "bf16"},
                        Case{"pipedream", 1, Recompute::never, "adam"}, Case{"gpipe", 3, Recompute::except_last, "sgd"},
                        Case{"zero-bubble", 2, Recompute::never, "sgd"}, Case{"interleaved", 4, Recompute::always, "adamw"},
                        Case{"pipemare", 1, Recompute::never, "sgd"}}) {
    CAPTURE(c.method);
    TrainerOptions o;
    o.stages = 2, o.threads = 2;
    o.method = c.method, o.micro_batches = c.micro_batches, o.recompute = c.recompute;
    o.optimizer.name = c.optimizer;
    o.math = c.math;
    o.batch = 4;
    const Plan plan = make_plan(make_model("resnet20", {}), o);
    const int64_t before = memory_in_use();
    Trainer trainer(make_model("resnet20", {}), o);
    // All that is taken, the links and what no stage reports among it; the loader is made by train().
    const double taken = double(memory_in_use() - before) / sizeof(float);
    CHECK(double(plan.memory() - plan.loader) <= taken);
    CHECK(double(plan.memory() - plan.loader) >= taken * 0.95);
    CHECK(plan.loader == (3 + 1) * (4 * 32 * 32 * 3 + aligned(4)));
    const std::vector<StageSummary> stages = trainer.summaries();
    CHECK(plan.partition == trainer.partition());
    const std::vector<Program> programs = programs_of(c.method, plan.run.setting);
    const Simulation simulation = simulate(programs, plan.run.costs);
    REQUIRE(plan.stages.size() == stages.size());
    int64_t parameters = 0;
    for (size_t k = 0; k < stages.size(); ++k) {
      CAPTURE(k);
      const PlannedStage& planned = plan.stages[k];
      const Stage::MemoryUse &m = stages[k].memory, &p = planned.memory;
      CHECK(planned.parts == stages[k].parts);
      CHECK(planned.parameters == stages[k].parameters);
      CHECK(planned.copies == stages[k].copies);
      CHECK(planned.frames == stages[k].frames);
      CHECK(p.weights == m.weights);
      CHECK(p.stash == m.stash);
      CHECK(p.gradient == m.gradient);
      CHECK(p.state == m.state);
      CHECK(p.frames == m.frames);
      CHECK(p.arena == m.arena);
      CHECK(simulation.stages[k].frames == stages[k].frames);
      CHECK(simulation.stages[k].bytes() == (m.weights + m.stash + m.gradient + m.state + m.frames + m.arena) * int64_t(sizeof(float)));
      CHECK(planned.seconds == doctest::Approx(simulation.stages[k].busy_seconds / double(plan.run.setting.minibatches)));
      parameters += planned.parameters;
    }
    int64_t of_parts = 0;
    for (const PlannedPart& part : plan.parts) of_parts += part.parameters;
    CHECK(of_parts == parameters);
  }
}

TEST_CASE("plan: without times it says the same of memory, and nothing in seconds") {
  TrainerOptions o;
  o.stages = 2, o.threads = 1, o.method = "gpipe", o.micro_batches = 2, o.batch = 4;
  const Graph graph = make_model("resnet20", {});
  const Plan timed = make_plan(graph, o), untimed = plan_memory(graph, o);
  CHECK(untimed.partition == timed.partition);
  CHECK(untimed.memory() == timed.memory());
  REQUIRE(untimed.stages.size() == 2);
  for (size_t k = 0; k < 2; ++k) CHECK(untimed.stages[k].memory.frames == timed.stages[k].memory.frames);
  for (size_t p = 0; p < timed.parts.size(); ++p) CHECK(untimed.parts[p].border_bytes == timed.parts[p].border_bytes);
  CHECK(plan_json(untimed).find("second") == std::string::npos);
  CHECK_THROWS_AS(read_plan(plan_json(untimed)), UsageError);
}

// The benchmark of memory of torchgpipe (Kim et al. 2020) after table 1 of GPipe (Huang et al. 2018): stages, sizes, balances and GiB of
// the model (weights, gradients and one state for each) as published. The largest has 1.84 billion parameters: nothing may be allocated for
// them.
TEST_CASE("plan: the memory of AmoebaNet-D grows with its stages as published") {
  struct Published {
    const char* model;
    std::vector<int> partition;
    double model_gibibytes, activations;
  };
  const int64_t before = memory_peak();
  double last = 0;
  for (const auto& [name, partition, model_gibibytes, published] : {Published{"amoebanet_d_18x416", {24}, 3.57, 0.91},
                                                                    {"amoebanet_d_18x544", {16, 8}, 6.07, 3.39},
                                                                    {"amoebanet_d_36x544", {16, 12, 7, 7}, 11.80, 6.91},
                                                                    {"amoebanet_d_72x512", {23, 16, 11, 6, 6, 5, 5, 6}, 20.62, 10.83}}) {
    CAPTURE(name);
    TrainerOptions o;
    o.stages = int(partition.size()), o.partition = partition, o.threads = 1;
    o.method = "gpipe", o.batch = 128, o.micro_batches = 128, o.recompute = Recompute::except_last;
    o.optimizer.name = "rmsprop", o.optimizer.momentum = 0;
    const Plan plan = plan_memory(make_model(name, {{1, 224, 224, 3}, 1000}), o);
    int64_t model = 0;
    for (const PlannedStage& stage : plan.stages) model += stage.memory.weights + stage.memory.gradient + stage.memory.state;
    const double gibibyte = double(1 << 30) / sizeof(float), activations = double(plan.memory() - model) / gibibyte;
    CHECK(std::abs(double(model) / gibibyte - model_gibibytes) < 0.006);  // rounded to 0.01
    CHECK(activations > last);
    CHECK(activations > 0.5 * published);
    CHECK(activations < published);
    last = activations;
  }
  CHECK(memory_peak() == before);
}

TEST_CASE("plan: a short last mini-batch may need more memory than a full one, and the plan of both says so") {
  TrainerOptions o;
  o.stages = 2, o.threads = 2, o.batch = 32;
  const std::vector<PassShape> full = {PassShape(32)}, both = {PassShape(32), PassShape(3)};
  const auto total = [](const Plan& plan) {
    int64_t floats = 0;
    for (const PlannedStage& stage : plan.stages) floats += stage.memory.frames + stage.memory.arena;
    return floats;
  };
  const Graph graph = make_model("resnet18", {});
  const Plan of_full = plan_memory(graph, o, full), of_both = plan_memory(graph, o, both);
  CHECK(total(of_both) > total(of_full));
  Trainer trainer(make_model("resnet18", {}), o, both);
  int64_t taken = 0;
  for (const StageSummary& stage : trainer.summaries()) taken += stage.memory.frames + stage.memory.arena;
  CHECK(total(of_both) == taken);
}

TEST_CASE("plan: parts have times, the partition a price, and the file keeps the costs") {
  TrainerOptions o;
  o.stages = 2, o.threads = 2, o.batch = 2;
  o.method = "zero-bubble", o.micro_batches = 2;
  const Plan plan = make_plan(make_model("resnet20", {}), o, Balance::measured);
  std::vector<double> seconds;
  double sum = 0;
  for (const PlannedPart& part : plan.parts) {
    CAPTURE(part.name);
    CHECK(part.seconds.forward > 0);
    CHECK(part.seconds.backward > 0);
    CHECK(part.seconds.input_half > 0);
    CHECK(part.update > 0);
    seconds.push_back(2 * (part.seconds.forward + part.seconds.input_half + part.seconds.weight_half) + part.update);
    sum += seconds.back();
  }
  // The first part makes 16 channels of 32 x 32 from one picture, 64 KiB.
  CHECK(plan.parts[0].border_bytes == 16 * 32 * 32 * 4);
  CHECK(plan.parts.back().border_bytes == 0);
  CHECK(plan.perfect == doctest::Approx(sum / 2));
  CHECK(plan.slowest >= plan.perfect * (1 - 1e-9));
  CHECK(plan.best == plan.slowest);  // it is the best one, as the parts were measured
  CHECK(plan.best_partition == plan.partition);
  // No other cut is better.
  for (size_t cut = 1; cut < seconds.size(); ++cut) {
    double first = 0;
    for (size_t p = 0; p < cut; ++p) first += seconds[p];
    CHECK(plan.slowest <= std::max(first, sum - first) * (1 + 1e-9));
  }

  const SimulatedRun read = read_plan(plan_json(plan));
  CHECK(read.model == "resnet20");
  CHECK(read.method == "zero-bubble");
  CHECK(read.batch == 2);
  const std::vector<Program> programs = programs_of("zero-bubble", read.setting);
  CHECK(programs == programs_of("zero-bubble", plan.run.setting));
  const Simulation written = simulate(programs, plan.run.costs), again = simulate(programs, read.costs);
  CHECK(written.seconds == again.seconds);
  CHECK(written.stages[0].bytes() == again.stages[0].bytes());

  CHECK(refusal([] { read_plan("{"); }).find("the file of costs is not JSON") != std::string::npos);
  CHECK(refusal([] { read_plan("{}"); }).find("'model'") != std::string::npos);
  std::string text = plan_json(plan);
  text.replace(text.find("\"step_seconds\": "), 16, "\"step_seconds\": -");
  CHECK(refusal([&] { read_plan(text); }).find("'step_seconds'") != std::string::npos);
  auto changed = [&](const std::string& before, const std::string& after) {
    std::string other = plan_json(plan);
    REQUIRE(other.find(before) != std::string::npos);
    return refusal([&] { read_plan(other.replace(other.find(before), before.size(), after)); });
  };
  CHECK(changed("\"stages\": 2", "\"stages\": 1e300").find("'stages' from 0 to 4096") != std::string::npos);
  CHECK(changed("\"stages\": 2", "\"stages\": 3").find("has those of 2 stages and says 'stages' 3") != std::string::npos);
  CHECK(changed("\"chunks\": 1", "\"chunks\": 2").find("has 1 chunks for a stage and says 'chunks' 2") != std::string::npos);
  CHECK(changed("\"batch\": 2", "\"batch\": 1e16").find("'batch' from 0 to 1048576") != std::string::npos);
  CHECK(refusal([] { read_plan(std::string(1000000, '[')); }).find("nests more than 8 levels") != std::string::npos);
}

TEST_CASE("plan: estimated costs are in the proportions that `bench layers` measured on one core") {
  const std::vector<double> small = estimated_costs(make_model("resnet20", {}), 128);
  CHECK(small[2] / small[8] == doctest::Approx(30.3 / 15.7).epsilon(0.1));  // layer1.1 beside layer3.1
  CHECK(small[5] / small[8] == doctest::Approx(19.6 / 15.7).epsilon(0.1));  // layer2.1
  CHECK(small[4] / small[8] == doctest::Approx(27.4 / 15.7).epsilon(0.1));  // layer2.0, with a stride and a projection
  const std::vector<double> large = estimated_costs(make_model("resnet18", {{1, 64, 64, 3}, 10}), 32);
  CHECK(large[8] / large[1] == doctest::Approx(19.8 / 16.3).epsilon(0.1));  // layer4.1, 2 x 2 pixels, beside layer1.0, 16 x 16
}

TEST_CASE("plan: a bad partition is told what the best one would be") {
  TrainerOptions o;
  o.stages = 2, o.threads = 2, o.batch = 2;
  o.partition = {10, 1};
  const Plan plan = make_plan(make_model("resnet20", {}), o);
  CHECK(plan.partition == std::vector<int>{10, 1});
  CHECK(plan.best < plan.slowest);
  CHECK(plan.best >= plan.perfect);
}

TEST_CASE("layers: every one is timed, with the products and bytes of its shapes") {
  const Graph graph = make_model("resnet20", {});
  const ModelTimes times = measure_layers(graph, 2, "cpu");
  REQUIRE(times.layers.size() == graph.nodes().size());
  double flops = 0;
  for (size_t k = 0; k < times.layers.size(); ++k) {
    const LayerTimes& layer = times.layers[k];
    CAPTURE(layer.name);
    CHECK(layer.name == graph.nodes()[k].layer->name());
    CHECK(layer.forward.seconds > 0);
    CHECK(layer.backward.seconds > 0);
    CHECK(layer.implementation.empty() == (layer.kind != "convolution"));
    flops += layer.forward.flops + layer.backward.flops;
  }
  CHECK(flops == doctest::Approx(training_flops(graph, 2)));
  // The first convolution: 2 pictures of 32 x 32 x 3 in, 16 channels out, 3 x 3 x 3 x 16 weights; nobody wants the pictures' gradient.
  const LayerTimes& first = times.layers[0];
  const double in = 2 * 32 * 32 * 3, out = 2 * 32 * 32 * 16, weights = 3 * 3 * 3 * 16, products = 2 * out * 3 * 3 * 3;
  CHECK(first.forward.flops == products);
  CHECK(first.backward.flops == products);
  CHECK(first.forward.bytes == 4 * (in + out + weights));
  CHECK(first.backward.bytes == 4 * (in + out + 3 * weights));
  CHECK(times.layers[2].backward.flops == 2 * times.layers[2].forward.flops);
}

TEST_CASE("machine: its rates are those of a processor") {
  const MachineRates machine = measure_machine("cpu");
  CHECK(machine.flops_per_second > 1e8);
  CHECK(machine.bytes_per_second > 1e8);
}

TEST_CASE("measure: a copy has a rate and an update a time") {
  CHECK(measure_copy_rate(1 << 20, "cpu") > 0);
  Segments segments;
  segments.add({.name = "weight", .shape = {128, 64}, .initial = {}});
  for (const char* name : {"sgd", "muon"}) {
    const std::unique_ptr<Optimizer> optimizer = make_optimizer({.name = name});
    const UpdateSeconds seconds = measure_updates(*optimizer, segments, LookAheadMode::paper, 3, "cpu");
    CHECK(seconds.step > 0);
    CHECK(seconds.step_and_predict > 0);
    CHECK(seconds.predict > 0);
    CHECK(seconds.norm > 0);
    CHECK(seconds.stash > 0);
  }
}
