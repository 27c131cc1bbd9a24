#pragma once
// One forward pass of a model and one backward pass, layer by layer, without a pipeline: what a model computes, for comparison with others.
// Dropout drops nothing, so that there is something to compare.
#include <algorithm>
#include <limits>
#include <string>

#include "layers/layer.h"
#include "models/models.h"
#include "models/weights.h"

namespace pipecast::testing {

struct ModelPass {
  std::vector<float> prediction;  // of the batch, row by row
  double loss = 0;                // mean over the labels; only in training
  Weights gradients;              // in place of the parameters; only in training
};

// Trained or not with these weights on `batch` images (NHWC) and their labels, or those of their pixels. Every value is in a vector of its
// own, poisoned before it is written. Throws Error for a model whose inputs are not "image" and "label".
inline ModelPass run_model(const Graph& graph, Weights weights, const std::vector<float>& images, const std::vector<int32_t>& labels,
                           int64_t batch, bool training) {
  const float poison = std::numeric_limits<float>::quiet_NaN();
  const DeviceOwner owner("cpu");
  const Device device = owner.get();
  const std::vector<TensorSpec> specs = graph.specs(batch);
  const size_t count = specs.size();
  std::vector<std::vector<float>> values(count), gradients(count), saved(graph.nodes().size());
  std::vector<Tensor> tensors(count);
  std::vector<int32_t> labels_given = labels;
  for (size_t v = 0; v < count; ++v) {
    if (graph.is_input(int(v)) && graph.input_of(int(v)).name == "label") {
      tensors[v] = {labels_given.data(), specs[v].shape, Storage::int32};
      continue;
    }
    if (graph.is_input(int(v)) && graph.input_of(int(v)).name != "image") throw Error("an input that is neither image nor label");
    values[v].assign(size_t(specs[v].shape.count()), poison);
    tensors[v] = {values[v].data(), specs[v].shape};
  }
  if (images.size() != values[0].size()) throw Error("images of another size than the model's");
  values[0] = images;
  tensors[0].data = values[0].data();

  Weights gradient_weights{weights.parameters, weights.statistics, std::vector<float>(weights.parameter_values.size()),
                           weights.statistic_values};
  float sums[8] = {}, scale = 1 / float(std::max<size_t>(labels.size(), 1));
  // The pass of a node: what is common to forward and backward.
  struct Prepared {
    std::vector<Tensor> x;
    std::vector<float*> weight, dweight, statistics;
    Pass pass;
  };
  const auto pointers = [&](int node, const Segments& all, std::vector<float>& floats, std::vector<ParameterSpec> (Layer::*of)() const) {
    std::vector<float*> found;
    for (const ParameterSpec& spec : graph.collect(node, node + 1, of).specs)
      found.push_back(floats.data() + all.offsets[size_t(all.find(spec.name))]);
    return found;
  };
  std::vector<Memory> workspaces(graph.nodes().size());
  const auto prepare = [&](size_t i, Prepared& p, bool forward) {
    const Node& node = graph.nodes()[i];
    std::vector<TensorSpec> inputs;
    for (int input : node.inputs) inputs.push_back(specs[size_t(input)]), p.x.push_back(tensors[size_t(input)]);
    if (forward) {
      const Needs needs = node.layer->prepare(device, inputs);
      saved[i].assign(size_t(needs.saved), poison);
      workspaces[i] = Memory(device, needs.workspace);
    }
    std::fill_n(workspaces[i].data(), workspaces[i].size(), poison);
    p.weight = pointers(int(i), weights.parameters, weights.parameter_values, &Layer::parameters);
    p.dweight = pointers(int(i), weights.parameters, gradient_weights.parameter_values, &Layer::parameters);
    p.statistics = pointers(int(i), weights.statistics, weights.statistic_values, &Layer::statistics);
    p.pass.device = device;
    p.pass.training = training && !std::string(node.layer->kind()).ends_with("dropout");
    p.pass.x = p.x, p.pass.y = tensors[size_t(node.value)];
    p.pass.weight = p.weight, p.pass.statistics = p.statistics;
    p.pass.saved = saved[i].data(), p.pass.workspace = workspaces[i].data(), p.pass.sums = sums, p.pass.scale = &scale;
  };
  const size_t last = training ? graph.nodes().size() : size_t(graph.values()[size_t(graph.prediction())].node) + 1;
  for (size_t i = 0; i < last; ++i) {
    Prepared p;
    prepare(i, p, true);
    graph.nodes()[i].layer->forward(p.pass);
  }
  ModelPass made{values[size_t(graph.prediction())], double(sums[0]) * double(scale), {}};
  if (!training) return made;

  for (size_t i = last; i-- > 0;) {
    const Node& node = graph.nodes()[i];
    Prepared p;
    prepare(i, p, false);
    std::vector<std::vector<float>> made_gradients(node.inputs.size());
    std::vector<Tensor> dx;
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const int input = node.inputs[k];
      Tensor gradient{nullptr, specs[size_t(input)].shape};
      if (graph.has_gradient(input, specs)) {
        made_gradients[k].assign(size_t(gradient.shape.count()), poison);
        gradient.data = made_gradients[k].data();
      }
      dx.push_back(gradient);
    }
    std::vector<float>& dy = gradients[size_t(node.value)];
    p.pass.dy = {dy.empty() ? nullptr : dy.data(), specs[size_t(node.value)].shape};
    p.pass.dx = dx, p.pass.dweight = p.dweight;
    node.layer->backward(p.pass);
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      std::vector<float>& sum = gradients[size_t(node.inputs[k])];
      if (sum.empty()) sum = std::move(made_gradients[k]);
      else
        for (size_t j = 0; j < sum.size(); ++j) sum[j] += made_gradients[k][j];
    }
    values[size_t(node.value)].clear(), dy.clear();
  }
  made.gradients = std::move(gradient_weights);
  return made;
}

}  // namespace pipecast::testing
