#include "pipeline/run/section.h"

#include <algorithm>

#include "engine/launch.h"
#include "engine/pack.h"
#include "optim/groups.h"

namespace pipecast {
namespace {

template <class T>
struct AddInto {
  T* sum;
  const T* x;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t i) const {
    auto total = load<W>(sum + i);
    const auto more = load<W>(x + i);
    each<W>([&](int k) { total.v[k] = total.v[k] + more.v[k]; });
    store(sum + i, total);
  }
};

}  // namespace

Section::Section(Device device, const Graph& graph, int first, int last, const std::vector<PassShape>& passes, int frames,
                 const SectionOptions& options)
    : device_(device), plan_(plan_section(device, graph, first, last, passes, options)) {
  arena_ = Memory(device, plan_.arena);
  frames_ = Memory(device, plan_.frame * frames);
  shared_ = Memory(device, plan_.shared);
  if (plan_.means > 0) loss_ = Memory(device, (1 + frames) * loss_floats);
  size_t fan_in = 0;
  for (const PlannedNode& planned : plan_.nodes) fan_in = std::max(fan_in, planned.node->inputs.size());
  x_.resize(fan_in), dx_.resize(fan_in);
}

Tensor Section::tensor(const std::vector<Place>& places, int frame, int value, const Specs& specs) const {
  const Place& p = places[size_t(value)];
  float* data = p.offset < 0 ? nullptr : p.in_frame ? frames_.data() + frame * plan_.frame + p.offset : arena_.data() + p.offset;
  return {data, specs[size_t(value)].shape, specs[size_t(value)].storage};
}

Tensor Section::value(int frame, int value, const PassShape& pass) const { return tensor(plan_.values, frame, value, plan_.specs(pass)); }
Tensor Section::gradient(int frame, int value, const PassShape& pass) const {
  return tensor(plan_.gradients, frame, value, plan_.specs(pass));
}

// Where a layer's parameter lies: that of the layer that it is tied to, if this one is here; else the next segment.
static size_t segment_of(const Segments& segments, const ParameterSpec& spec, size_t& next) {
  const int tied = spec.tied.empty() ? -1 : segments.find(spec.tied);
  return tied >= 0 ? size_t(tied) : next++;
}

Binding Section::bind(const Segments& segments, float* base, std::vector<ParameterSpec> (Layer::*of)() const) const {
  Binding binding;
  size_t next = 0;
  for (const PlannedNode& planned : plan_.nodes) {
    binding.first.push_back(binding.pointers.size());
    for (const ParameterSpec& spec : (planned.node->layer.get()->*of)())
      binding.pointers.push_back(base + segments.offsets[segment_of(segments, spec, next)]);
  }
  binding.first.push_back(binding.pointers.size());
  return binding;
}

Binding Section::bind_gradients(float* base, const std::vector<std::string>& frozen) const {
  const Binding all = bind_parameters(base);
  Binding wanted;
  size_t next = 0;
  for (size_t k = 0; k < plan_.nodes.size(); ++k) {
    bool is_frozen = plan_.nodes[k].node->layer->splits();
    for (const ParameterSpec& spec : plan_.nodes[k].node->layer->parameters())
      is_frozen &= is_named(plan_.parameters.specs[segment_of(plan_.parameters, spec, next)].name, frozen);
    wanted.first.push_back(wanted.pointers.size());
    if (!is_frozen) wanted.pointers.insert(wanted.pointers.end(), all.node(k).begin(), all.node(k).end());
  }
  wanted.first.push_back(wanted.pointers.size());
  return wanted;
}

Tensor Section::read(const PlannedNode& planned, size_t input, int frame, const Specs& specs) const {
  const bool made = planned.maker >= 0 && input == 0;
  const Node& from = made ? *plan_.nodes[size_t(planned.maker - plan_.first)].node : *planned.node;
  return tensor(plan_.values, frame, from.inputs[input], specs);
}

Pass Section::pass(size_t k, int frame, const Specs& specs, const Binding& weights, const Binding& statistics, const PassOptions& options) {
  const PlannedNode& planned = plan_.nodes[k];
  const size_t inputs = planned.node->inputs.size();
  for (size_t j = 0; j < inputs; ++j) x_[j] = read(planned, j, frame, specs);
  float* saved = frames_.data() + frame * plan_.frame;
  Pass pass;
  pass.device = device_;
  pass.training = options.training, pass.seed = options.seed, pass.step = options.step;
  pass.deferred = options.deferred, pass.samples_before = options.samples_before, pass.replay = options.replay;
  pass.x = {x_.data(), inputs};
  pass.y = tensor(plan_.values, frame, planned.node->value, specs);
  pass.weight = weights.node(k);
  pass.statistics = statistics.node(k);
  pass.saved = saved + planned.saved_offset;
  if (planned.maker >= 0) {
    const PlannedNode& maker = plan_.nodes[size_t(planned.maker - plan_.first)];
    Pass of_maker;
    of_maker.saved = saved + maker.saved_offset;
    normalised_ = maker.node->layer->normalised(of_maker);
    pass.normalised = &normalised_;
  }
  pass.workspace = arena_.data() + plan_.workspace_offset;
  pass.shared = shared_.data() + planned.shared_offset;
  pass.sums = sums(), pass.scale = scale(frame);
  return pass;
}

void Section::forward(int frame, const PassShape& shape, const Binding& weights, const Binding& statistics, const PassOptions& options,
                      const Visit& visit) {
  const Specs& specs = plan_.specs(shape);
  for (size_t k = 0; k < plan_.nodes.size(); ++k) {
    const PlannedNode& planned = plan_.nodes[k];
    const Pass p = pass(k, frame, specs, weights, statistics, options);
    if (planned.in_fp32) in_fp32_.forward(*planned.node->layer, p, planned.needs);
    else planned.node->layer->forward(p);
    if (visit) visit(*planned.node->layer, p);
  }
}

// The backward's view of the inputs and their gradients; assigned: the gradients are wanted.
void Section::set_gradients(Pass& p, const PlannedNode& planned, int frame, const Specs& specs, bool assigned) {
  const std::vector<int>& inputs = planned.node->inputs;
  float* spare = arena_.data() + plan_.spare_offset;
  for (size_t j = 0; j < inputs.size(); ++j) {
    const size_t v = size_t(inputs[j]);
    const bool unwritten = planned.maker >= 0 && j == 0;                  // then it is read from what it is made of, which is kept
    if (!unwritten && !plan_.values[v].in_frame) x_[j].data = nullptr;  // its place holds something else by now
    dx_[j] = tensor(plan_.gradients, frame, inputs[j], specs);
    if (!assigned || !planned.wanted[j]) dx_[j].data = nullptr;
    else if (planned.adds[j]) dx_[j].data = spare, spare += place_floats(specs[v]);
  }
  p.dx = {dx_.data(), inputs.size()}, p.adds = planned.adds_itself;
}

void Section::add_spare_gradients(const PlannedNode& planned, int frame, const Specs& specs) const {
  for (size_t j = 0; j < planned.node->inputs.size(); ++j) {
    if (!planned.adds[j]) continue;
    const Tensor sum = tensor(plan_.gradients, frame, planned.node->inputs[j], specs);
    with_element(sum.storage, [&](auto element) {
      using T = decltype(element);
      map(device_, sum.shape.count(), AddInto<T>{sum.as<T>(), dx_[j].as<T>()});
    });
  }
}

void Section::backward(int frame, const PassShape& shape, const Binding& weights, const Binding& gradients, const Binding& statistics,
                       const PassOptions& options, Half half, const Visit& visit) {
  const Specs& specs = plan_.specs(shape);
  for (size_t k = plan_.nodes.size(); k-- > 0;) {
    const PlannedNode& planned = plan_.nodes[k];
    if (half == Half::weight && (!planned.splits || gradients.node(k).empty())) continue;
    Pass p = pass(k, frame, specs, weights, statistics, options);
    set_gradients(p, planned, frame, specs, half != Half::weight);
    if (!plan_.values[size_t(planned.node->value)].in_frame) p.y.data = nullptr;
    p.dy = tensor(plan_.gradients, frame, planned.node->value, specs);
    if (!planned.splits || half != Half::input) p.dweight = gradients.node(k);
    if (planned.in_fp32) in_fp32_.backward(*planned.node->layer, p, planned.needs);
    else planned.node->layer->backward(p);
    if (visit) visit(*planned.node->layer, p);
    if (half != Half::weight) add_spare_gradients(planned, frame, specs);
  }
}

}  // namespace pipecast
