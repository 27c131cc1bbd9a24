// A model's logits in evaluation and its loss and gradients in training, written to a file: the half of
// tests/gradients_against_torchvision.py that
// is ours.
//
//   model_gradients MODEL WEIGHTS.safetensors INPUT.safetensors OUT.safetensors
//
// INPUT: "images" [n,c,h,w] and "labels" [n], as fp32. OUT: "logits" [n,classes], "loss" [1], and the gradient of each parameter by the
// parameter's name. Ten classes.
#include <cstdio>

#include "engine/files/safetensors.h"
#include "model_pass.h"

using namespace pipecast;

int main(int count, char** arguments) {
  if (count != 5) return std::fprintf(stderr, "usage: model_gradients MODEL WEIGHTS INPUT OUT\n"), 2;
  const SafeTensors input = read_safetensors(arguments[3]);
  const std::vector<int64_t> s = input.tensors.at("images").shape;
  const std::vector<float> nchw = input.tensors.at("images").floats(), numbers = input.tensors.at("labels").floats();
  const std::vector<int32_t> labels(numbers.begin(), numbers.end());
  const int64_t n = s[0], c = s[1], pixels = s[2] * s[3];
  std::vector<float> images(nchw.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < c; ++k)
      for (int64_t p = 0; p < pixels; ++p) images[size_t((i * pixels + p) * c + k)] = nchw[size_t((i * c + k) * pixels + p)];

  const Graph graph = make_model(arguments[1], {.image = {1, s[2], s[3], c}, .classes = 10});
  const Weights weights = from_safetensors(graph, read_safetensors(arguments[2]), arguments[2]);
  const std::vector<float> logits = testing::run_model(graph, weights, images, {}, n, false).prediction;
  const testing::ModelPass trained = testing::run_model(graph, weights, images, labels, n, true);
  SafeTensors out = to_safetensors(trained.gradients);
  out.tensors["logits"] = FileTensor::f32({n, 10}, logits.data());
  const float loss = float(trained.loss);
  out.tensors["loss"] = FileTensor::f32({1}, &loss);
  write_safetensors(arguments[4], out);
}
