#include "pipeline/run/section.h"

#include <algorithm>

#include "engine/launch.h"
#include "engine/pack.h"

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

Section::Section(Device device, const Graph& graph, int first, int last, std::vector<int64_t> batches, int frames, bool split_backward)
    : device_(device), first_(first), last_(last), shapes_(graph.shapes(1)) {
  const auto& nodes = graph.nodes();
  const int values = int(nodes.size()) + 1, model_output = int(nodes.size());
  const int count = last - first;
  parameters_ = graph.collect(first, last, &Layer::parameters);
  statistics_ = graph.collect(first, last, &Layer::statistics);

  // Values up to `first` are made before the section (node i makes value i + 1), values up to `last` before its end.
  std::vector<bool> read_here(values), read_later(values);
  for (int i = first; i < int(nodes.size()); ++i)
    for (int v : nodes[i].inputs) (i < last ? read_here : read_later)[v] = true;
  read_later[model_output] = true;
  for (int v = 0; v <= first; ++v)
    if (read_here[v] || read_later[v]) inputs_.push_back(v);
  for (int v = 0; v <= last; ++v)
    if (read_later[v]) outputs_.push_back(v);

  // Time of a pass: forward runs node i at i - first; backward runs it at last - 1 - i. The borders are before and after.
  struct Use {
    bool kept = false;  // backward, or its weight half, reads it after other passes ran: it lies in the frame
    int first = 1 << 30, last = -1;
    void use(int time) { first = std::min(first, time), last = std::max(last, time); }
  };
  std::vector<Use> forward(values), backward(values);
  std::vector<bool> wants_gradient(values, false);
  for (int v : inputs_) {
    forward[v].use(-1), forward[v].use(count);
    wants_gradient[v] = v > 0;
    if (wants_gradient[v]) backward[v].use(count);
  }
  forward[model_output].kept = true;  // the backward of the loss reads it, after other forwards perhaps
  for (int v : outputs_) {
    forward[v].use(count);
    if (v > 0) backward[v].use(-1), backward[v].use(count);
  }

  int64_t most = 0, workspace = 0, spare = 0, shared = 0;
  for (int64_t batch : batches) most = std::max(most, batch);
  size_t fan_in = 0;
  std::vector<Needs> all_needs;
  for (int i = first; i < last; ++i) {
    Run& run = runs_.emplace_back(Run{&nodes[i]});
    all_needs.push_back(prepare(run, batches));
    fan_in = std::max(fan_in, nodes[i].inputs.size());
  }

  // Left unwritten: a value that its one reader, in this section too, can make from what the value's node reads.
  std::vector<int> readers(values, 0);
  for (int v : outputs_) readers[v] = 2;
  for (int i = first; i < last; ++i)
    for (int v : nodes[i].inputs) ++readers[v];
  const auto maker = [&](const Node& node) {
    const int by = node.inputs[0] - 1;
    if (by < first || device.storage != Storage::fp32 || readers[node.inputs[0]] > 1) return -1;
    return nodes[by].layer->normalises() && node.layer->takes_normalised() ? by : -1;
  };

  for (int i = first; i < last; ++i) {
    const Node& node = nodes[i];
    const Needs& needs = all_needs[size_t(i - first)];
    Run& run = runs_[size_t(i - first)];
    run.splits = split_backward && node.layer->splits();
    run.maker = maker(node);
    workspace = std::max(workspace, needs.workspace);
    const int made = i + 1, forward_time = i - first, backward_time = last - 1 - i;
    forward[made].use(forward_time);
    for (int v : node.inputs) forward[v].use(forward_time), forward[v].kept |= needs.input;
    if (run.maker >= 0) forward[node.inputs[0]] = {}, forward[nodes[run.maker].inputs[0]].kept = true;
    forward[made].kept |= needs.output;
    wants_gradient[made] = true;
    backward[made].use(backward_time);
    backward[made].kept = run.splits;
    for (int v : node.inputs) {
      run.wanted.push_back(wants_gradient[v]);
      if (wants_gradient[v]) backward[v].use(backward_time);
    }
    run.saved_offset = frame_floats_;
    frame_floats_ += aligned(needs.saved);
    run.shared_offset = shared;
    shared += aligned(needs.shared);
    run.adds.assign(node.inputs.size(), false);
  }
  x_.resize(fan_in), dx_.resize(fan_in);

  // Who writes a gradient first assigns it: a later stage, or the last node that reads the value. The others add to it, or write to a
  // spare place, which is then added.
  std::vector<bool> written(values, false);
  for (int v : outputs_) written[v] = true;
  for (int k = count - 1; k >= 0; --k) {
    int64_t spare_of_node = 0;
    for (size_t j = 0; j < runs_[k].node->inputs.size(); ++j) {
      int v = runs_[k].node->inputs[j];
      if (!runs_[k].wanted[j]) continue;
      if (written[v] && j == 0 && runs_[k].node->layer->adds()) runs_[k].adds_itself = true;
      else if (written[v]) runs_[k].adds[j] = true, spare_of_node += place_floats(shape(v, most));
      written[v] = true;
    }
    spare = std::max(spare, spare_of_node);
  }

  values_.resize(values), gradients_.resize(values);
  std::vector<Lifetime> in_forward, in_backward;
  std::vector<int> forward_value, backward_value;
  for (int v = 0; v < values; ++v) {
    const int64_t floats = place_floats(shape(v, most));
    if (forward[v].last >= forward[v].first) {
      if (forward[v].kept) values_[v] = {frame_floats_, true}, frame_floats_ += floats;
      else in_forward.push_back({floats, forward[v].first, forward[v].last}), forward_value.push_back(v);
    }
    if (backward[v].last >= backward[v].first) {
      if (backward[v].kept) gradients_[v] = {frame_floats_, true}, frame_floats_ += floats;
      else in_backward.push_back({floats, backward[v].first, backward[v].last}), backward_value.push_back(v);
    }
  }
  Layout a = lay_out(in_forward), b = lay_out(in_backward);
  for (size_t k = 0; k < forward_value.size(); ++k) values_[forward_value[k]] = {a.offsets[k], false};
  for (size_t k = 0; k < backward_value.size(); ++k) gradients_[backward_value[k]] = {b.offsets[k], false};
  spare_offset_ = std::max(a.total, b.total);
  workspace_offset_ = spare_offset_ + spare;
  arena_ = Memory(device, workspace_offset_ + aligned(workspace));
  frames_ = Memory(device, frame_floats_ * frames);
  shared_ = Memory(device, shared);
}

// What a layer needs for passes of all sizes, as it is given them.
Needs Section::prepare(Run& run, const std::vector<int64_t>& batches) {
  const Node& node = *run.node;
  std::vector<Shape> x(node.inputs.size());
  auto all = [&](Device device) {
    Needs needs{.bf16 = true};
    for (int64_t batch : batches) {
      for (size_t k = 0; k < x.size(); ++k) x[k] = shape(node.inputs[k], batch);
      const Needs n = node.layer->prepare(device, x);
      needs.input |= n.input, needs.output |= n.output, needs.bf16 &= n.bf16;
      needs.saved = std::max(needs.saved, n.saved), needs.workspace = std::max(needs.workspace, n.workspace);
      needs.shared = std::max(needs.shared, n.shared);
    }
    return needs;
  };
  Needs needs = all(device_);
  if (device_.storage == Storage::fp32 || needs.bf16) return needs;
  Device fp32 = device_;
  fp32.storage = Storage::fp32;
  needs = all(fp32);
  run.in_fp32 = true;
  run.needs = needs;
  const int64_t most = *std::max_element(batches.begin(), batches.end());
  for (size_t k = 0; k < x.size(); ++k) x[k] = shape(node.inputs[k], most);
  needs.workspace = aligned(needs.workspace) + InFp32::floats(x, node.layer->output(x));
  return needs;
}

float* Section::place(const Place& p, int frame) const {
  if (p.offset < 0) return nullptr;
  return p.in_frame ? frames_.data() + frame * frame_floats_ + p.offset : arena_.data() + p.offset;
}

Tensor Section::value(int frame, int value, int64_t batch) const {
  return {place(values_[value], frame), shape(value, batch), device_.storage};
}
Tensor Section::gradient(int frame, int value, int64_t batch) const {
  return {place(gradients_[value], frame), shape(value, batch), device_.storage};
}

Binding Section::bind(const Segments& segments, float* base, std::vector<ParameterSpec> (Layer::*of)() const) const {
  Binding binding;
  size_t next = 0;
  for (const Run& run : runs_) {
    binding.first.push_back(binding.pointers.size());
    for (size_t k = (run.node->layer.get()->*of)().size(); k > 0; --k) binding.pointers.push_back(base + segments.offsets[next++]);
  }
  binding.first.push_back(binding.pointers.size());
  return binding;
}

Tensor Section::read(const Run& run, size_t input, int frame, int64_t batch) const {
  const Node& from = run.maker >= 0 && input == 0 ? *runs_[size_t(run.maker - first_)].node : *run.node;
  return value(frame, from.inputs[input], batch);
}

Pass Section::pass(size_t k, int frame, int64_t batch, const Binding& weights, const Binding& statistics, const PassOptions& options) {
  const Run& run = runs_[k];
  const size_t inputs = run.node->inputs.size();
  for (size_t j = 0; j < inputs; ++j) x_[j] = read(run, j, frame, batch);
  Pass pass;
  pass.device = device_;
  pass.training = options.training, pass.seed = options.seed, pass.step = options.step;
  pass.deferred = options.deferred, pass.samples_before = options.samples_before, pass.replay = options.replay;
  pass.x = {x_.data(), inputs};
  pass.y = value(frame, first_ + int(k) + 1, batch);
  pass.weight = weights.node(k);
  pass.statistics = statistics.node(k);
  pass.saved = frames_.data() + frame * frame_floats_ + run.saved_offset;
  if (run.maker >= 0) {
    Pass of_maker;
    const Run& maker = runs_[size_t(run.maker - first_)];
    of_maker.saved = frames_.data() + frame * frame_floats_ + maker.saved_offset;
    normalised_ = maker.node->layer->normalised(of_maker);
    pass.normalised = &normalised_;
  }
  pass.workspace = arena_.data() + workspace_offset_;
  pass.shared = shared_.data() + run.shared_offset;
  return pass;
}

void Section::forward(int frame, int64_t batch, const Binding& weights, const Binding& statistics, const PassOptions& options,
                      const Visit& visit) {
  for (size_t k = 0; k < runs_.size(); ++k) {
    const Pass p = pass(k, frame, batch, weights, statistics, options);
    if (runs_[k].in_fp32) in_fp32_.forward(*runs_[k].node->layer, p, runs_[k].needs);
    else runs_[k].node->layer->forward(p);
    if (visit) visit(*runs_[k].node->layer, p);
  }
}

void Section::backward(int frame, int64_t batch, const Binding& weights, const Binding& gradients, const Binding& statistics,
                       const PassOptions& options, Half half, const Visit& visit) {
  for (size_t k = runs_.size(); k-- > 0;) {
    const Run& run = runs_[k];
    if (half == Half::weight && !run.splits) continue;
    Pass p = pass(k, frame, batch, weights, statistics, options);
    const std::vector<int>& inputs = run.node->inputs;
    float* spare = arena_.data() + spare_offset_;
    for (size_t j = 0; j < inputs.size(); ++j) {
      const bool unwritten = run.maker >= 0 && j == 0;                       // then it is read from what it is made of, which is kept
      if (!unwritten && !values_[inputs[j]].in_frame) x_[j].data = nullptr;  // its place holds something else by now
      const bool assigned = run.wanted[j] && half != Half::weight;
      dx_[j] = assigned ? gradient(frame, inputs[j], batch) : Tensor{nullptr, shape(inputs[j], batch), device_.storage};
      if (assigned && run.adds[j]) dx_[j].data = spare, spare += place_floats(dx_[j].shape);
    }
    if (!values_[first_ + int(k) + 1].in_frame) p.y.data = nullptr;
    p.dx = {dx_.data(), inputs.size()}, p.adds = run.adds_itself;
    p.dy = gradient(frame, first_ + int(k) + 1, batch);
    if (!run.splits || half != Half::input) p.dweight = gradients.node(k);
    if (run.in_fp32) in_fp32_.backward(*run.node->layer, p, run.needs);
    else run.node->layer->backward(p);
    if (visit) visit(*run.node->layer, p);
    if (half == Half::weight) continue;
    for (size_t j = 0; j < inputs.size(); ++j)
      if (run.adds[j]) {
        const Tensor sum = gradient(frame, inputs[j], batch);
        with_element(device_.storage, [&](auto element) {
          using T = decltype(element);
          map(device_, sum.shape.count(), AddInto<T>{sum.as<T>(), dx_[j].as<T>()});
        });
      }
  }
}

}  // namespace pipecast
