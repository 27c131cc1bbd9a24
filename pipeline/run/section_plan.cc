#include "pipeline/run/section_plan.h"

#include <algorithm>

#include "layers/in_fp32.h"
#include "models/fusion.h"

namespace pipecast {
namespace {

// When a value, or its gradient, is used. A pass runs node i forward at time i - first and backward at last - 1 - i; what crosses a border
// is there at time -1 or at the time after the last node.
struct Use {
  bool kept = false;  // the backward, or its weight half, reads it after other passes ran: it lies in the frame
  int first = 1 << 30, last = -1;
  void at(int time) { first = std::min(first, time), last = std::max(last, time); }
  bool used() const { return last >= first; }
};

struct Uses {
  std::vector<Use> values, gradients;
};

std::vector<TensorSpec> inputs_of(const Node& node, const std::vector<TensorSpec>& specs) {
  std::vector<TensorSpec> inputs;
  for (int v : node.inputs) inputs.push_back(specs[size_t(v)]);
  return inputs;
}

// What a layer needs for passes of all shapes, whose activations are stored as they are, or in fp32 copies.
Needs needs_of(Device device, const Node& node, const std::vector<SpecTable>& tables, bool in_fp32) {
  Needs needs{.bf16 = true};
  for (const SpecTable& table : tables) {
    if (table.pass.samples == 0) continue;
    std::vector<TensorSpec> x = inputs_of(node, table.specs);
    for (TensorSpec& spec : x)
      if (in_fp32) spec = stored(spec, Storage::fp32);
    const Needs n = node.layer->prepare(device, x);
    needs.input |= n.input, needs.output |= n.output, needs.bf16 &= n.bf16;
    needs.saved = std::max(needs.saved, n.saved), needs.workspace = std::max(needs.workspace, n.workspace);
    needs.shared = std::max(needs.shared, n.shared);
  }
  return needs;
}

void plan_node(Device device, const Node& node, SectionPlan& plan) {
  PlannedNode planned{&node};
  planned.needs = needs_of(device, node, plan.tables, false);
  if (plan.options.activations == Storage::bf16 && !planned.needs.bf16)
    planned.in_fp32 = true, planned.needs = needs_of(device, node, plan.tables, true);
  planned.splits = plan.options.split_backward && node.layer->splits();
  plan.nodes.push_back(std::move(planned));
}

// Its own, and that of the fp32 copies.
int64_t workspace_of(const PlannedNode& planned, const std::vector<SpecTable>& tables) {
  int64_t copies = 0;
  if (planned.in_fp32)
    for (const SpecTable& table : tables)
      copies = std::max(copies, InFp32::floats(inputs_of(*planned.node, table.specs), table.specs[size_t(planned.node->value)]));
  return planned.in_fp32 ? aligned(planned.needs.workspace) + copies : planned.needs.workspace;
}

Uses uses_of(const Graph& graph, SectionPlan& plan) {
  const std::vector<TensorSpec>& specs = plan.tables.front().specs;
  const int count = plan.last - plan.first, model_output = int(graph.values().size()) - 1;
  Uses uses{std::vector<Use>(graph.values().size()), std::vector<Use>(graph.values().size())};
  for (int v : plan.borders.fed) uses.values[size_t(v)].at(-1), uses.values[size_t(v)].at(count);
  for (int v : plan.borders.inputs) {
    uses.values[size_t(v)].at(-1), uses.values[size_t(v)].at(count);
    if (graph.has_gradient(v, specs)) uses.gradients[size_t(v)].at(count);
  }
  for (int v : plan.borders.outputs) {
    uses.values[size_t(v)].at(count);
    if (graph.has_gradient(v, specs)) uses.gradients[size_t(v)].at(-1), uses.gradients[size_t(v)].at(count);
  }
  // The caller makes the gradient of an output that no loss reads, after other forwards perhaps.
  uses.values[size_t(model_output)].kept = specs[size_t(model_output)].differentiable;

  for (int i = plan.first; i < plan.last; ++i) {
    const Node& node = graph.nodes()[size_t(i)];
    PlannedNode& planned = plan.nodes[size_t(i - plan.first)];
    const size_t made = size_t(node.value);
    const int forward_time = i - plan.first, backward_time = plan.last - 1 - i;
    uses.values[made].at(forward_time);
    for (int v : node.inputs) uses.values[size_t(v)].at(forward_time), uses.values[size_t(v)].kept |= planned.needs.input;
    if (planned.maker >= 0) {
      uses.values[size_t(node.inputs[0])] = {};
      uses.values[size_t(graph.nodes()[size_t(planned.maker)].inputs[0])].kept = true;
    }
    uses.values[made].kept |= planned.needs.output;
    if (specs[made].differentiable) uses.gradients[made].at(backward_time), uses.gradients[made].kept = planned.splits;
    for (int v : node.inputs) {
      planned.wanted.push_back(graph.has_gradient(v, specs));
      if (planned.wanted.back()) uses.gradients[size_t(v)].at(backward_time);
    }
  }
  return uses;
}

// The first writer of a gradient assigns it: a later stage, or the last node that reads the value. The others add to it, or write to a
// spare place, which is then added. Returns the floats of spare places.
int64_t plan_sums(const Graph& graph, SectionPlan& plan) {
  std::vector<bool> written(graph.values().size(), false);
  for (int v : plan.borders.outputs) written[size_t(v)] = true;
  int64_t most = 0;
  for (size_t k = plan.nodes.size(); k-- > 0;) {
    PlannedNode& planned = plan.nodes[k];
    const std::vector<int>& inputs = planned.node->inputs;
    planned.adds.assign(inputs.size(), false);
    int64_t spare = 0;
    for (size_t j = 0; j < inputs.size(); ++j) {
      const size_t v = size_t(inputs[j]);
      if (!planned.wanted[j]) continue;
      if (written[v] && j == 0 && planned.node->layer->adds()) planned.adds_itself = true;
      else if (written[v]) planned.adds[j] = true, spare += plan.most_floats(inputs[j]);
      written[v] = true;
    }
    most = std::max(most, spare);
  }
  return most;
}

// Gives each used value or gradient a place in the frame, or in the arena beside those that live at the same time. Returns the arena's
// floats.
int64_t place_all(const std::vector<Use>& uses, SectionPlan& plan, std::vector<Place>& places) {
  std::vector<Lifetime> lifetimes;
  std::vector<size_t> in_arena;
  places.resize(uses.size());
  for (size_t v = 0; v < uses.size(); ++v) {
    if (!uses[v].used()) continue;
    const int64_t floats = plan.most_floats(int(v));
    if (uses[v].kept) places[v] = {plan.frame, true}, plan.frame += floats;
    else lifetimes.push_back({floats, uses[v].first, uses[v].last}), in_arena.push_back(v);
  }
  const Placement placement = place(lifetimes);
  for (size_t k = 0; k < in_arena.size(); ++k) places[in_arena[k]] = {placement.offsets[k], false};
  return placement.total;
}

}  // namespace

const std::vector<TensorSpec>& SectionPlan::specs(const PassShape& pass) const {
  for (const SpecTable& table : tables)
    if (table.pass == pass) return table.specs;
  throw Error("nodes " + std::to_string(first) + " to " + std::to_string(last) + " are not prepared for a pass of " + to_string(pass));
}

int64_t SectionPlan::most_floats(int value) const { return pipecast::most_floats(tables, value); }

SectionPlan plan_section(Device device, const Graph& graph, int first, int last, const std::vector<PassShape>& passes,
                         const SectionOptions& options) {
  SectionPlan plan;
  plan.first = first, plan.last = last;
  plan.options = options;
  plan.borders = borders(graph, first, last);
  plan.tables = spec_tables(graph, passes, options.activations);
  plan.parameters = graph.collect(first, last, &Layer::parameters);
  plan.statistics = graph.collect(first, last, &Layer::statistics);
  for (int i = first; i < last; ++i) plan_node(device, graph.nodes()[size_t(i)], plan);
  if (options.activations == Storage::fp32) {
    const std::vector<int> makers = makers_of_unwritten_inputs(graph, first, last, plan.borders.outputs);
    for (size_t k = 0; k < makers.size(); ++k) plan.nodes[k].maker = makers[k];
  }
  const Uses uses = uses_of(graph, plan);

  int64_t workspace = 0;
  for (PlannedNode& planned : plan.nodes) {
    planned.saved_offset = plan.frame, plan.frame += aligned(planned.needs.saved);
    planned.shared_offset = plan.shared, plan.shared += aligned(planned.needs.shared);
    workspace = std::max(workspace, workspace_of(planned, plan.tables));
    plan.means += int(planned.node->layer->means().size());
  }
  const int64_t spare = plan_sums(graph, plan);
  const int64_t forward = place_all(uses.values, plan, plan.values), backward = place_all(uses.gradients, plan, plan.gradients);
  plan.spare_offset = std::max(forward, backward);
  plan.workspace_offset = plan.spare_offset + spare;
  plan.arena = plan.workspace_offset + aligned(workspace);
  return plan;
}

}  // namespace pipecast
