#include "pipeline/measure/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "pipeline/plan/partition.h"
#include "data/loader.h"
#include "pipeline/run/section.h"

namespace pipecast {
namespace {

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
    const int border = layout.channels().piece({options.index, {.chunk = int(chunk)}});  // the hop before this piece
    costs.chunks.push_back({.activation_bytes = border == 0 ? fed_bytes : layout.message_bytes(border, false, specs),
                            .gradient_bytes = layout.message_bytes(border, true, specs),
                            .frame_bytes = section.frame * int64_t(sizeof(float)),
                            .input_bytes = input_floats * int64_t(sizeof(float))});
  }
  const std::vector<SpecTable> tables = spec_tables(graph, options.passes, options.activations);
  const std::vector<Channel>& channels = layout.channels().all();
  for (size_t c = 0; c < channels.size(); ++c)
    if ((channels[c].gradients ? channels[c].from : channels[c].to) == options.index) stage.links += layout.channel_floats(int(c), tables);
  const int store = options.predicts ? 2 : 1;
  stage.copies = store + options.stash_slots;
  const int64_t n = parameters.total;
  stage.memory.weights = n * store, stage.memory.stash = n * options.stash_slots;
  stage.memory.gradient = n;
  stage.memory.state = n * (optimizer.states() + (options.looks_back ? 1 : 0) + (options.moving_average > 0 ? 1 : 0)) +
                       optimizer.scratch(matrices(parameters));
  costs.weight_bytes = n * int64_t(sizeof(float));
  costs.state_bytes = costs.weight_bytes * optimizer.states();
  costs.arena_bytes = stage.memory.arena * int64_t(sizeof(float));
  return parameters;
}

// Seconds of the model's parts on this machine.
struct PartCosts {
  std::vector<PartSeconds> passes;
  std::vector<double> updates;     // of a mini-batch
  std::vector<double> minibatch;   // its passes and its update
};

PartCosts measure_costs(const Graph& graph, const TrainerOptions& options, const Optimizer& optimizer, bool halves) {
  const int threads = options.threads_per_stage();
  PartCosts costs{measure_parts(graph, options.pass(), options.device, options.math, threads, options.stages, halves),
                  measure_part_updates(graph, optimizer, options.look_ahead, options.device, threads),
                  {}};
  for (size_t part = 0; part < costs.passes.size(); ++part) {
    const PartSeconds& s = costs.passes[part];
    const double pass = s.forward + (halves ? s.input_half + s.weight_half : s.backward);
    costs.minibatch.push_back(costs.updates[part] + pass * options.micro_batches);
  }
  return costs;
}

PlannedPart plan_part(Device device, const Graph& graph, size_t number, const PartCosts& costs, const PassShape& pass, Storage activations) {
  const Part& part = graph.parts()[number];
  const SectionPlan section = plan_section(device, graph, part.first, part.last, {pass}, {activations});
  int64_t border_bytes = 0;
  if (number + 1 < graph.parts().size()) {
    const std::vector<TensorSpec>& specs = section.specs(pass);
    for (int v : borders(graph, 0, part.last).outputs) border_bytes += bytes_of(specs[size_t(v)].storage, specs[size_t(v)].shape.count());
  }
  return {part.name, counted(section.parameters), border_bytes, costs.passes[number], costs.updates[number]};
}

// Stage k, and its costs for a simulation.
PlannedStage plan_stage(Device device, const Graph& graph, const TrainerOptions& options, const RunLayout& layout, int k,
                        const PartCosts& parts, const Optimizer& optimizer, bool timed, StageCosts& costs) {
  PlannedStage stage;
  stage.frames = 0;
  const Segments parameters =
      add_memory(device, graph, *layout.model, layout.stages[size_t(k)], optimizer, options.pass(), stage, costs);
  for (size_t chunk = 0; chunk < costs.chunks.size(); ++chunk) {
    const Piece& piece = layout.model->piece(k, int(chunk));
    stage.parts.push_back({piece.first_part, piece.parts});
    ChunkCosts& c = costs.chunks[chunk];
    for (int part = piece.first_part; part < piece.first_part + piece.parts; ++part) {
      const PartSeconds& of_part = parts.passes[size_t(part)];
      c.forward += of_part.forward, c.backward += of_part.backward;
      c.input_half += of_part.input_half, c.weight_half += of_part.weight_half;
    }
  }
  const UpdateSeconds update =
      timed ? measure_updates(optimizer, parameters, options.look_ahead, options.stages - 1 - k, options.device) : UpdateSeconds{};
  costs.step = update.norm + update.step, costs.step_and_predict = update.norm + update.step_and_predict;
  costs.predict = update.predict, costs.stash = update.stash;
  return stage;
}

int64_t largest_activation(const Costs& costs) {
  int64_t bytes = 0;
  for (const StageCosts& stage : costs.stages)
    for (const ChunkCosts& chunk : stage.chunks) bytes = std::max(bytes, chunk.activation_bytes);
  return bytes;
}

// The times of the stages, by a simulation.
void add_stage_seconds(Plan& plan, const std::vector<Program>& programs) {
  const Simulation simulation = simulate(programs, plan.run.costs);
  for (size_t k = 0; k < plan.stages.size(); ++k)
    plan.stages[k].seconds = simulation.stages[k].busy_seconds / double(plan.run.setting.minibatches);
}

void add_balance(Plan& plan, const PartCosts& costs, int stages) {
  plan.slowest = slowest_stage(costs.minibatch, plan.partition, stages);
  plan.best_partition = partition(costs.minibatch, int(plan.partition.size()));
  plan.best = std::min(plan.slowest, slowest_stage(costs.minibatch, plan.best_partition, stages));
  plan.perfect = std::accumulate(costs.minibatch.begin(), costs.minibatch.end(), 0.0) / stages;
}

// costs: null for a plan without times.
Plan plan_run(const Graph& graph, const TrainerOptions& options, const RunLayout& layout, const std::vector<PassShape>& batch_shapes,
              const Optimizer& optimizer, const PartCosts* costs) {
  const size_t parts = graph.parts().size();
  const PartCosts none{std::vector<PartSeconds>(parts), std::vector<double>(parts), {}};
  const PartCosts& seconds = costs ? *costs : none;
  Plan plan;
  plan.timed = costs != nullptr;
  plan.partition = layout.partition;
  const DeviceOwner owner(options.device, options.math);
  const int before = threads();
  set_threads(options.threads_per_stage());
  for (size_t p = 0; p < parts; ++p)
    plan.parts.push_back(plan_part(owner.get(), graph, p, seconds, options.pass(), activation_storage(options.math)));
  if (costs) add_balance(plan, *costs, options.stages);
  plan.loader = Loader::memory(graph.inputs(), batch_shapes);

  Costs& simulated = plan.run.costs;
  simulated.stages.resize(layout.stages.size());
  for (int k = 0; k < options.stages; ++k)
    plan.stages.push_back(plan_stage(owner.get(), graph, options, layout, k, seconds, optimizer, plan.timed, simulated.stages[size_t(k)]));
  const Channels& channels = layout.model->channels();
  const std::vector<SpecTable> tables = spec_tables(graph, {options.pass()}, activation_storage(options.math));
  for (size_t n = 0; n < channels.skips().size(); ++n) {
    const int hop = channels.pieces() + int(n);
    simulated.skips.push_back({channels.skips()[n], layout.model->message_bytes(hop, false, tables.front().specs),
                               layout.model->message_bytes(hop, true, tables.front().specs)});
  }
  if (costs) simulated.link.copy_bytes_per_second = measure_copy_rate(largest_activation(simulated), options.device);
  set_threads(before);

  plan.run.model = graph.name(), plan.run.method = options.method, plan.run.batch = options.batch;
  plan.run.setting = {.stages = options.stages,
                      .minibatches = minibatches(layout.programs),
                      .micro_batches = options.micro_batches,
                      .look_ahead = options.look_ahead,
                      .chunks = chunks(layout.programs),
                      .recompute = options.recompute};
  if (costs) add_stage_seconds(plan, layout.programs);
  return plan;
}

}  // namespace

Plan make_plan(const Graph& graph, TrainerOptions options, Balance balance, std::vector<PassShape> batch_shapes) {
  if (batch_shapes.empty()) batch_shapes = {PassShape(options.batch, options.length)};
  RunLayout layout = resolve(graph, options, batch_shapes);
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(options.optimizer);
  const PartCosts costs = measure_costs(graph, options, *optimizer, splits_backward(layout.programs.front()));
  if (options.partition.empty() && balance == Balance::measured) {
    options.partition = partition(costs.minibatch, int(layout.partition.size()));
    layout = resolve(graph, options, batch_shapes);
  }
  return plan_run(graph, options, layout, batch_shapes, *optimizer, &costs);
}

Plan plan_memory(const Graph& graph, TrainerOptions options, std::vector<PassShape> batch_shapes) {
  if (batch_shapes.empty()) batch_shapes = {PassShape(options.batch, options.length)};
  const RunLayout layout = resolve(graph, options, batch_shapes);
  return plan_run(graph, options, layout, batch_shapes, *make_optimizer(options.optimizer), nullptr);
}

int64_t Plan::memory() const {
  int64_t floats = loader;
  for (const PlannedStage& stage : stages) {
    const Stage::MemoryUse& m = stage.memory;
    floats += m.weights + m.stash + m.gradient + m.state + m.frames + m.arena + stage.links;
  }
  return floats;
}

}  // namespace pipecast
