#include "pipeline/measure/plan.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "engine/files/json_reader.h"
#include "pipeline/plan/partition.h"
#include "data/loader.h"
#include "pipeline/run/section.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;
constexpr double most_count = 65535;  // stages, chunks, micro-batches of a plan

int64_t counted(const Segments& segments) {
  int64_t count = 0;
  for (const ParameterSpec& spec : segments.specs) count += spec.count();
  return count;
}

// Measured seconds of the passes of a mini-batch on the slowest stage: piece n is on stage n % stages.
double slowest_stage(const std::vector<double>& part_seconds, const std::vector<int>& partition, int stages) {
  std::vector<double> seconds(size_t(stages), 0);
  size_t part = 0;
  for (size_t piece = 0; piece < partition.size(); ++piece)
    for (int left = partition[piece]; left > 0; --left) seconds[piece % size_t(stages)] += part_seconds[part++];
  return *std::max_element(seconds.begin(), seconds.end());
}

int64_t floats_of_all(const SectionPlan& section, const std::vector<int>& values) {
  int64_t floats = 0;
  for (int v : values) floats += section.most_floats(v);
  return floats;
}

// What Stage takes of memory for such options, and the bytes in the costs, without taking it. Returns the stage's parameters.
Segments add_memory(Device device, const Graph& graph, const Layout& layout, const StageOptions& options, const Optimizer& optimizer,
                    const PassShape& pass, PlannedStage& stage, StageCosts& costs) {
  Segments parameters;
  for (size_t chunk = 0; chunk < options.chunks.size(); ++chunk) {
    const ChunkOptions& c = options.chunks[chunk];
    const SectionPlan section = plan_section(device, graph, c.first_node, c.last_node, options.passes, options.section());
    const std::vector<TensorSpec>& specs = section.specs(pass);
    const Borders& borders = section.borders;
    int64_t wide = 0, fed_bytes = 0;  // wide: see Source
    for (int v : borders.fed) fed_bytes += bytes_of(specs[size_t(v)].storage, specs[size_t(v)].shape.count());
    for (int v : borders.fed)
      for (const SpecTable& table : section.tables)
        if (table.specs[size_t(v)].storage == Storage::bf16) wide = std::max(wide, table.specs[size_t(v)].shape.count());
    const int64_t input_floats = floats_of_all(section, borders.inputs) + floats_of_all(section, borders.fed) +
                                 (section.means > 0 ? Section::loss_floats : 0);
    for (const ParameterSpec& spec : section.parameters.specs) parameters.add(spec);
    stage.parameters += counted(section.parameters);
    stage.frames += c.frames;
    stage.memory.frames += section.frame * c.frames + input_floats * c.inputs;
    stage.memory.arena += section.arena + section.shared + wide;
    const int border = layout.channels().piece({options.index, {.chunk = int(chunk)}});
    costs.chunks.push_back({.activation_bytes = borders.inputs.empty() ? fed_bytes : layout.message_bytes(border, false, specs),
                            .gradient_bytes = layout.message_bytes(border, true, specs),
                            .frame_bytes = section.frame * int64_t(sizeof(float)),
                            .input_bytes = input_floats * int64_t(sizeof(float))});
  }
  const std::vector<SpecTable> tables = spec_tables(graph, options.passes, options.activations);
  for (int channel : {layout.channels().activations_to(options.index), layout.channels().gradients_from(options.index)})
    if (channel >= 0) stage.links += layout.channel_floats(channel, tables);
  const int store = options.predicts ? 2 : 1;
  stage.copies = store + options.stash_slots;
  const int64_t n = parameters.total;
  stage.memory.weights = n * store, stage.memory.stash = n * options.stash_slots;
  stage.memory.gradient = n;
  stage.memory.state = n * (optimizer.states() + (options.looks_back ? 1 : 0)) + optimizer.scratch(matrices(parameters));
  costs.weight_bytes = n * int64_t(sizeof(float));
  costs.state_bytes = costs.weight_bytes * optimizer.states();
  costs.arena_bytes = stage.memory.arena * int64_t(sizeof(float));
  return parameters;
}

}  // namespace

Plan make_plan(const Graph& graph, TrainerOptions options, Balance balance) {
  RunLayout layout = resolve(graph, options);
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(options.optimizer);
  const PassShape pass = options.pass();
  const bool halves = splits_backward(layout.programs.front());
  const std::vector<PartSeconds> seconds =
      measure_parts(graph, pass.samples, options.device, options.math, options.threads_per_stage(), options.stages, halves);
  auto pass_seconds = [&](size_t part) {
    const PartSeconds& s = seconds[part];
    return s.forward + (halves ? s.input_half + s.weight_half : s.backward);
  };
  const std::vector<double> updates =
      measure_part_updates(graph, *optimizer, options.look_ahead, options.device, options.threads_per_stage());
  std::vector<double> costs = updates;
  for (size_t part = 0; part < seconds.size(); ++part) costs[part] += pass_seconds(part) * options.micro_batches;
  if (options.partition.empty() && balance == Balance::measured) {
    options.partition = partition(costs, int(layout.partition.size()));
    layout = resolve(graph, options);
  }

  Plan plan;
  plan.partition = layout.partition;
  const DeviceOwner owner(options.device, options.math);
  const int before = threads();
  set_threads(options.threads_per_stage());
  for (size_t p = 0; p < seconds.size(); ++p) {
    const Part& part = graph.parts()[p];
    const SectionPlan section = plan_section(owner.get(), graph, part.first, part.last, {pass}, {activation_storage(options.math)});
    int64_t border_bytes = 0;
    if (p + 1 < seconds.size())
      for (int v : section.borders.outputs) border_bytes += bytes_of(section.specs(pass)[size_t(v)].storage, section.specs(pass)[size_t(v)].shape.count());
    plan.parts.push_back({part.name, counted(section.parameters), border_bytes, seconds[p], updates[p]});
  }

  plan.slowest = slowest_stage(costs, plan.partition, options.stages);
  plan.best_partition = partition(costs, int(layout.partition.size()));
  plan.best = std::min(plan.slowest, slowest_stage(costs, plan.best_partition, options.stages));
  plan.perfect = std::accumulate(costs.begin(), costs.end(), 0.0) / options.stages;
  plan.loader = Loader::memory(graph.inputs(), {options.batch});

  Costs& simulated = plan.run.costs;
  int64_t largest_message = 0;
  for (size_t k = 0; k < layout.stages.size(); ++k) {
    const StageOptions& s = layout.stages[k];
    PlannedStage stage;
    stage.frames = 0;
    StageCosts cost;
    const Segments parameters = add_memory(owner.get(), graph, *layout.model, s, *optimizer, pass, stage, cost);
    for (size_t chunk = 0; chunk < s.chunks.size(); ++chunk) {
      const Piece& piece = layout.model->piece(int(k), int(chunk));
      stage.parts.push_back({piece.first_part, piece.parts});
      ChunkCosts& c = cost.chunks[chunk];
      for (int part = piece.first_part; part < piece.first_part + piece.parts; ++part) {
        const PartSeconds& of_part = seconds[size_t(part)];
        c.forward += of_part.forward, c.backward += of_part.backward;
        c.input_half += of_part.input_half, c.weight_half += of_part.weight_half;
      }
      largest_message = std::max(largest_message, c.activation_bytes);
    }
    const int ahead = int(layout.stages.size()) - 1 - int(k);
    const UpdateSeconds update = measure_updates(*optimizer, parameters, options.look_ahead, ahead, options.device);
    cost.step = update.norm + update.step, cost.step_and_predict = update.norm + update.step_and_predict;
    cost.predict = update.predict, cost.stash = update.stash;
    plan.stages.push_back(std::move(stage));
    simulated.stages.push_back(std::move(cost));
  }
  simulated.link.copy_bytes_per_second = measure_copy_rate(largest_message, options.device);
  set_threads(before);

  plan.run.model = graph.name(), plan.run.method = options.method, plan.run.batch = options.batch;
  plan.run.setting = {.stages = options.stages,
                      .minibatches = minibatches(layout.programs),
                      .micro_batches = options.micro_batches,
                      .look_ahead = options.look_ahead,
                      .chunks = chunks(layout.programs),
                      .recompute = options.recompute};
  const Simulation simulation = simulate(layout.programs, simulated);
  for (size_t k = 0; k < plan.stages.size(); ++k)
    plan.stages[k].seconds = simulation.stages[k].busy_seconds / double(plan.run.setting.minibatches);
  return plan;
}

int64_t Plan::memory() const {
  int64_t floats = loader;
  for (const PlannedStage& stage : stages) {
    const Stage::MemoryUse& m = stage.memory;
    floats += m.weights + m.stash + m.gradient + m.state + m.frames + m.arena + stage.links;
  }
  return floats;
}

std::string plan_json(const Plan& plan) {
  const Setting& setting = plan.run.setting;
  auto bytes = [](int64_t floats) { return floats * int64_t(sizeof(float)); };
  Json json = {{"model", plan.run.model},
               {"method", plan.run.method},
               {"lookahead", to_string(setting.look_ahead)},
               {"stages", setting.stages},
               {"chunks", setting.chunks},
               {"minibatches", setting.minibatches},
               {"micro_batches", setting.micro_batches},
               {"recompute", to_string(setting.recompute)},
               {"batch", plan.run.batch},
               {"copy_bytes_per_second", plan.run.costs.link.copy_bytes_per_second},
               {"partition", plan.partition},
               {"slowest_seconds", plan.slowest},
               {"best_partition", plan.best_partition},
               {"best_seconds", plan.best},
               {"perfect_seconds", plan.perfect},
               {"loader_bytes", bytes(plan.loader)},
               {"memory_bytes", bytes(plan.memory())}};
  for (const PlannedPart& part : plan.parts)
    json["parts"].push_back({{"name", part.name},
                             {"parameters", part.parameters},
                             {"border_bytes", part.border_bytes},
                             {"forward_seconds", part.seconds.forward},
                             {"backward_seconds", part.seconds.backward},
                             {"input_half_seconds", part.seconds.input_half},
                             {"weight_half_seconds", part.seconds.weight_half},
                             {"update_seconds", part.update}});
  for (size_t k = 0; k < plan.stages.size(); ++k) {
    const PlannedStage& stage = plan.stages[k];
    const StageCosts& costs = plan.run.costs.stages[k];
    const Stage::MemoryUse& m = stage.memory;
    Json chunks = Json::array();
    for (const ChunkCosts& chunk : costs.chunks)
      chunks.push_back({{"forward_seconds", chunk.forward},
                        {"backward_seconds", chunk.backward},
                        {"input_half_seconds", chunk.input_half},
                        {"weight_half_seconds", chunk.weight_half},
                        {"activation_bytes", chunk.activation_bytes},
                        {"gradient_bytes", chunk.gradient_bytes},
                        {"frame_bytes", chunk.frame_bytes},
                        {"input_bytes", chunk.input_bytes}});
    json["costs"].push_back({{"chunks", chunks},
                             {"step_seconds", costs.step},
                             {"step_and_predict_seconds", costs.step_and_predict},
                             {"predict_seconds", costs.predict},
                             {"stash_seconds", costs.stash},
                             {"weight_bytes", costs.weight_bytes},
                             {"state_bytes", costs.state_bytes},
                             {"arena_bytes", costs.arena_bytes}});
    json["stage_plans"].push_back({{"parameters", stage.parameters},
                                   {"copies", stage.copies},
                                   {"frames", stage.frames},
                                   {"weight_bytes", bytes(m.weights + m.stash)},
                                   {"gradient_bytes", bytes(m.gradient)},
                                   {"state_bytes", bytes(m.state)},
                                   {"frame_bytes", bytes(m.frames)},
                                   {"arena_bytes", bytes(m.arena)},
                                   {"link_bytes", bytes(stage.links)},
                                   {"seconds", stage.seconds}});
  }
  return json.dump(1);
}

SimulatedRun read_plan(std::string_view text) {
  using Json = nlohmann::json;  // finds a key among many without comparing all
  const std::string hint = ": write it with 'pipecast plan --json'";
  const Json json = parse_json(text.data(), text.size(), "the file of costs");
  if (!json.is_object()) throw UsageError("the file of costs is not a JSON object" + hint);
  // A value of an object, from 0 to what fits with room for sums.
  auto read = [&](const Json& object, const char* key, auto& value, double most = 1e15) {
    const auto found = object.find(key);
    const bool good = found != object.end() && found->is_number() && found->get<double>() >= 0 && found->get<double>() <= most;
    if (!good)
      throw UsageError(std::string("the file of costs has no number '") + key + "' from 0 to " + std::to_string(int64_t(most)) + hint);
    found->get_to(value);
  };
  auto read_text = [&](const char* key) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) throw UsageError(std::string("the file of costs has no text '") + key + "'" + hint);
    return found->get<std::string>();
  };
  auto list = [&](const Json& object, const char* key) -> const Json& {
    const auto found = object.find(key);
    bool good = found != object.end() && found->is_array();
    if (good) good = std::all_of(found->begin(), found->end(), [](const Json& row) { return row.is_object(); });
    if (!good) throw UsageError(std::string("the file of costs has no list of objects '") + key + "'" + hint);
    return *found;
  };
  SimulatedRun run{.model = read_text("model"), .method = read_text("method"), .setting = {}, .batch = 1, .costs = {}};
  Setting& setting = run.setting;
  setting.look_ahead = look_ahead_mode(read_text("lookahead")), setting.recompute = recompute_mode(read_text("recompute"));
  read(json, "stages", setting.stages, most_count), read(json, "chunks", setting.chunks, most_count);
  read(json, "minibatches", setting.minibatches), read(json, "micro_batches", setting.micro_batches, most_count);
  read(json, "batch", run.batch), read(json, "copy_bytes_per_second", run.costs.link.copy_bytes_per_second);
  for (const Json& row : list(json, "costs")) {
    StageCosts stage;
    for (const Json& c : list(row, "chunks")) {
      ChunkCosts chunk;
      read(c, "forward_seconds", chunk.forward), read(c, "backward_seconds", chunk.backward);
      read(c, "input_half_seconds", chunk.input_half), read(c, "weight_half_seconds", chunk.weight_half);
      read(c, "activation_bytes", chunk.activation_bytes), read(c, "gradient_bytes", chunk.gradient_bytes);
      read(c, "frame_bytes", chunk.frame_bytes), read(c, "input_bytes", chunk.input_bytes);
      stage.chunks.push_back(chunk);
    }
    read(row, "step_seconds", stage.step), read(row, "step_and_predict_seconds", stage.step_and_predict);
    read(row, "predict_seconds", stage.predict), read(row, "stash_seconds", stage.stash);
    read(row, "weight_bytes", stage.weight_bytes), read(row, "state_bytes", stage.state_bytes);
    read(row, "arena_bytes", stage.arena_bytes);
    if (int64_t(stage.chunks.size()) != setting.chunks)
      throw UsageError("the file of costs has " + std::to_string(stage.chunks.size()) + " chunks for a stage and says 'chunks' " +
                       std::to_string(setting.chunks) + hint);
    run.costs.stages.push_back(stage);
  }
  if (int64_t(run.costs.stages.size()) != setting.stages)
    throw UsageError("the file of costs has those of " + std::to_string(run.costs.stages.size()) + " stages and says 'stages' " +
                     std::to_string(setting.stages) + hint);
  return run;
}

}  // namespace pipecast
