#pragma once
// One forward pass of a model and one backward pass, layer by layer, without a pipeline: what a model computes, for comparison with others.
// Dropout drops nothing, so that there is something to compare.
#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <variant>

#include "layers/layer.h"
#include "models/models.h"
#include "models/weights.h"

namespace pipecast::testing {

struct ModelPass {
  std::vector<float> prediction;  // of the batch, row by row
  double loss = 0;                // mean over what it counts; only in training
  Weights gradients;              // in place of the parameters; only in training
};

using Inputs = std::map<std::string, std::variant<std::vector<float>, std::vector<int32_t>>>;

// Trained or not with these weights on these inputs, by name; those of the loss only in training. Every value is in a vector of its own,
// poisoned before it is written.
inline ModelPass run_model(const Graph& graph, Weights weights, Inputs inputs_given, const PassShape& shape, bool training) {
  const float poison = std::numeric_limits<float>::quiet_NaN();
  const DeviceOwner owner("cpu");
  const Device device = owner.get();
  const std::vector<TensorSpec> specs = graph.specs(shape);
  const size_t count = specs.size();
  std::vector<std::vector<float>> values(count), gradients(count), saved(graph.nodes().size());
  std::vector<Tensor> tensors(count);
  for (size_t v = 0; v < count; ++v) {
    tensors[v] = {nullptr, specs[v].shape, specs[v].storage};
    if (graph.is_input(int(v))) {
      const std::string& name = graph.input_of(int(v)).name;
      if (!inputs_given.contains(name)) continue;
      std::visit(
          [&](auto& given) {
            if (int64_t(given.size()) != specs[v].shape.count()) throw Error("input '" + name + "' has another size than the model's");
            tensors[v].data = given.data();
          },
          inputs_given.at(name));
      continue;
    }
    values[v].assign(size_t(specs[v].shape.count()), poison);
    tensors[v].data = values[v].data();
  }

  Weights gradient_weights{weights.parameters, weights.statistics, std::vector<float>(weights.parameter_values.size()),
                           weights.statistic_values};
  float sums[8] = {}, scale = 1;
  double counts[8] = {1};
  if (training) {
    std::vector<Tensor> of_loss;
    for (int input : graph.nodes().back().inputs) of_loss.push_back(tensors[size_t(input)]);
    graph.loss()->count(of_loss, counts);
    scale = float(1 / counts[0]);
  }
  // The pass of a node: what is common to forward and backward.
  struct Prepared {
    std::vector<Tensor> x;
    std::vector<float*> weight, dweight, statistics;
    Pass pass;
  };
  const auto pointers = [&](int node, const Segments& all, std::vector<float>& floats, std::vector<ParameterSpec> (Layer::*of)() const) {
    std::vector<float*> found;
    for (const ParameterSpec& spec : graph.collect(node, node + 1, of).specs)
      found.push_back(floats.data() + all.offsets[size_t(all.find(spec.tied.empty() ? spec.name : spec.tied))]);
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
    const std::string kind = node.layer->kind();
    p.pass.training = training && !kind.ends_with("dropout") && kind != "attention";
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
  ModelPass made{values[size_t(graph.prediction())], double(sums[0]) / counts[0], {}};
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

// The same of a classifier of images (NHWC), with their labels.
inline ModelPass run_model(const Graph& graph, Weights weights, const std::vector<float>& images, const std::vector<int32_t>& labels,
                           int64_t batch, bool training) {
  return run_model(graph, std::move(weights), labels.empty() ? Inputs{{"image", images}} : Inputs{{"image", images}, {"label", labels}},
                   batch, training);
}

}  // namespace pipecast::testing
