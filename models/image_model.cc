#include "models/image_model.h"

namespace pipecast {

ImageModel::ImageModel(const std::string& name, const ModelOptions& options, int64_t smallest_side)
    : options_(options), graph_(name, options.image) {
  const Shape& image = options.image;
  const std::string side = std::to_string(smallest_side);
  if (image.c < 1) throw UsageError(name + " given images without channels: give them at least 1");
  if (image.h < smallest_side || image.w < smallest_side)
    throw UsageError(name + " cannot take images of " + std::to_string(image.h) + "x" + std::to_string(image.w) +
                     " pixels: use images of at least " + side + "x" + side);
  if (options.classes < 2)
    throw UsageError(name + " with classes = " + std::to_string(options.classes) + ": a classifier needs at least 2");
}

Features ImageModel::add(std::unique_ptr<Layer> layer, Features x) { return {graph_.add(std::move(layer), {x.value}), x.channels}; }

Features ImageModel::convolution(const std::string& name, Features x, ConvolutionOptions options) {
  options.in = x.channels;
  return {graph_.add(pipecast::convolution(name, options), {x.value}), options.out};
}

Features ImageModel::norm(const std::string& name, Features x, BatchNormOptions options) {
  options.channels = x.channels;
  return add(batch_norm(name, options), x);
}

Features ImageModel::add_and_norm(const std::string& name, Features x, Features second, BatchNormOptions options) {
  options.channels = x.channels;
  options.add = true;
  return {graph_.add(batch_norm(name, options), {x.value, second.value}), x.channels};
}

Features ImageModel::concatenation(const std::string& name, const std::vector<Features>& parts) {
  std::vector<int> values;
  int64_t channels = 0;
  for (const Features& x : parts) values.push_back(x.value), channels += x.channels;
  return {graph_.add(pipecast::concatenation(name), std::move(values)), channels};
}

Features ImageModel::sum(const std::string& name, const std::vector<Features>& terms) {
  std::vector<int> values;
  for (const Features& x : terms) values.push_back(x.value);
  return {graph_.add(pipecast::add(name), std::move(values)), terms[0].channels};
}

Features ImageModel::flatten(const std::string& name, Features x, int64_t pixels) {
  return {graph_.add(pipecast::flatten(name), {x.value}), pixels * x.channels};
}

Features ImageModel::linear(const std::string& name, Features x, LinearOptions options) {
  options.in = x.channels;
  return {graph_.add(pipecast::linear(name, options), {x.value}), options.out};
}

Graph ImageModel::finish(Features logits) && {
  add_classifier_loss(graph_, logits.value, options_);
  return std::move(graph_);
}

Graph ImageModel::finish_pixels(Features logits) && {
  add_classifier_loss(graph_, logits.value, options_, {1, options_.image.h, options_.image.w, 1});
  return std::move(graph_);
}

}  // namespace pipecast
