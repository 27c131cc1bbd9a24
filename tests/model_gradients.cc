// A model's logits in evaluation and its loss and gradients in training, written to a file: the half of
// tests/gradients_against_torchvision.py and tests/gradients_against_transformers.py that is ours.
//
//   model_gradients MODEL WEIGHTS.safetensors INPUT.safetensors OUT.safetensors
//
// INPUT: "images" [n,c,h,w] and "labels" [n], as fp32, of ten classes. Or of a model that reads text its inputs as int32: "tokens"
// [n,length], "length" [n], "target" [n,length] or "label" [n], of as many tokens and classes as the model was made for. OUT: "logits" of
// all rows, "loss" [1], and the gradient of each parameter by the parameter's name.
#include <cstdio>
#include <cstring>

#include "engine/files/safetensors.h"
#include "model_pass.h"

using namespace pipecast;
using testing::Inputs;

namespace {

struct Given {
  ModelOptions options;
  Inputs inputs;
  PassShape shape;
};

Given pictures(const SafeTensors& input) {
  const std::vector<int64_t> s = input.tensors.at("images").shape;
  const std::vector<float> nchw = input.tensors.at("images").floats(), numbers = input.tensors.at("labels").floats();
  const int64_t n = s[0], c = s[1], pixels = s[2] * s[3];
  std::vector<float> images(nchw.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < c; ++k)
      for (int64_t p = 0; p < pixels; ++p) images[size_t((i * pixels + p) * c + k)] = nchw[size_t((i * c + k) * pixels + p)];
  return {{.image = {1, s[2], s[3], c}}, {{"image", images}, {"label", std::vector<int32_t>(numbers.begin(), numbers.end())}}, n};
}

Given texts(const SafeTensors& input, const ModelEntry& entry) {
  Given given{{.classes = entry.classes, .vocabulary = entry.vocabulary}, {}, {}};
  for (const auto& [name, tensor] : input.tensors) {
    std::vector<int32_t> values(size_t(tensor.count()));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    given.inputs[name] = values;
  }
  const std::vector<int64_t>& shape = input.tensors.at("tokens").shape;
  given.shape = {shape[0], shape[1]};
  return given;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) return std::fprintf(stderr, "usage: model_gradients MODEL WEIGHTS INPUT OUT\n"), 2;
  const SafeTensors input = read_safetensors(arguments[3]);
  const Given given = input.tensors.contains("tokens") ? texts(input, model_entry(arguments[1])) : pictures(input);
  const Graph graph = make_model(arguments[1], given.options);
  const Weights weights = from_safetensors(graph, read_safetensors(arguments[2]), arguments[2]);
  const std::vector<float> logits = testing::run_model(graph, weights, given.inputs, given.shape, false).prediction;
  const testing::ModelPass trained = testing::run_model(graph, weights, given.inputs, given.shape, true);
  SafeTensors out = to_safetensors(trained.gradients);
  const Shape prediction = graph.specs(given.shape)[size_t(graph.prediction())].shape;
  out.tensors["logits"] = FileTensor::f32({prediction.rows(), prediction.c}, logits.data());
  const float loss = float(trained.loss);
  out.tensors["loss"] = FileTensor::f32({1}, &loss);
  write_safetensors(arguments[4], out);
}
