#include "models/models.h"

#include <algorithm>

#include "engine/registry.h"
#include "layers/layers.h"

namespace pipecast {
namespace {

Graph gnmt_of(const std::string& name, int64_t hidden, int layers, const ModelOptions& options) {
  return gnmt(
      {.name = name, .hidden = hidden, .vocabulary = options.vocabulary, .layers = layers, .label_smoothing = options.label_smoothing});
}

// Parameter counts: 10 classes for CIFAR, 1000 for ImageNet.
Registry<ModelEntry>& registry() {
  using Options = ModelOptions;
  static Registry<ModelEntry> models = registry_of<ModelEntry>(
      "model",
      {
          {"resnet9", "6.57 M parameters, CIFAR, for training in seconds", resnet9},
          {"resnet20", "0.27 M parameters, CIFAR, basic blocks", [](const Options& o) { return cifar_resnet(20, o); }},
          {"resnet32", "0.47 M parameters, CIFAR, basic blocks", [](const Options& o) { return cifar_resnet(32, o); }},
          {"resnet44", "0.66 M parameters, CIFAR, basic blocks", [](const Options& o) { return cifar_resnet(44, o); }},
          {"resnet56", "0.86 M parameters, CIFAR, basic blocks", [](const Options& o) { return cifar_resnet(56, o); }},
          {"resnet110", "1.73 M parameters, CIFAR, basic blocks", [](const Options& o) { return cifar_resnet(110, o); }},
          {"resnet18", "11.69 M parameters, ImageNet, basic blocks", [](const Options& o) { return imagenet_resnet(18, o); }, 224, 1000},
          {"resnet34", "21.80 M parameters, ImageNet, basic blocks", [](const Options& o) { return imagenet_resnet(34, o); }, 224, 1000},
          {"resnet50", "25.56 M parameters, ImageNet, bottleneck blocks", [](const Options& o) { return imagenet_resnet(50, o); }, 224,
           1000},
          {"resnet101", "44.55 M parameters, ImageNet, bottleneck blocks", [](const Options& o) { return imagenet_resnet(101, o); }, 224,
           1000},
          {"resnet152", "60.19 M parameters, ImageNet, bottleneck blocks", [](const Options& o) { return imagenet_resnet(152, o); }, 224,
           1000},
          {"alexnet", "61.10 M parameters, ImageNet, most of them in three linear layers", alexnet, 224, 1000},
          {"vgg16", "138.36 M parameters, ImageNet, most of them in three linear layers", vgg16, 224, 1000},
          {"vgg16_bn", "138.37 M parameters, ImageNet, the same with batch norm", vgg16_bn, 224, 1000},
          {"vgg16_cifar", "14.73 M parameters, CIFAR, with batch norm and one linear layer", vgg16_cifar},
          {"googlenet", "6.62 M parameters, ImageNet, Inception blocks without auxiliary classifiers", googlenet, 224, 1000},
          {"googlenet_cifar", "6.17 M parameters, CIFAR, Inception blocks", googlenet_cifar},
          {"inception_v3", "23.83 M parameters, ImageNet at 299x299, without its auxiliary classifier", inception_v3, 299, 1000},
          {"densenet121", "7.98 M parameters, ImageNet, dense blocks", densenet121, 224, 1000},
          {"densenet121_cifar", "6.96 M parameters, CIFAR, dense blocks", densenet121_cifar},
          {"mobilenet_v2", "3.50 M parameters, ImageNet, inverted residuals", mobilenet_v2, 224, 1000},
          {"bag-of-embeddings", "0.65 M parameters, text of 10000 tokens, the mean of all words", bag_of_embeddings},
          {"residual-lstm", "1.87 M parameters, text of 10000 tokens, four LSTM blocks with shortcuts",
           [](const Options& o) {
             return residual_lstm({.vocabulary = o.vocabulary, .classes = o.classes, .label_smoothing = o.label_smoothing});
           },
           32, 2},
          {"gnmt-8", "125.18 M parameters, translation with 10000 tokens, 8 LSTMs of 1024 units with attention",
           [](const Options& o) { return gnmt_of("gnmt-8", 1024, 4, o); }},
          {"gnmt-16", "209.13 M parameters, translation with 10000 tokens, 16 LSTMs of 1024 units with attention",
           [](const Options& o) { return gnmt_of("gnmt-16", 1024, 8, o); }},
          {"gnmt-8-small", "13.61 M parameters, translation with 10000 tokens, 8 LSTMs of 256 units with attention",
           [](const Options& o) { return gnmt_of("gnmt-8-small", 256, 4, o); }},
      });
  return models;
}

}  // namespace

void register_model(ModelEntry entry) { registry().add(std::move(entry)); }

const std::vector<ModelEntry>& model_entries() { return registry().entries(); }

const ModelEntry& model_entry(const std::string& name) { return registry().find(name); }

Graph make_model(const std::string& name, const ModelOptions& options) { return model_entry(name).make(options); }

std::vector<std::string> head_layers(const std::string& name, ModelOptions options) {
  const std::vector<ParameterSpec> specs = make_model(name, options).parameters().specs;
  ++options.classes;
  const std::vector<ParameterSpec> with_another = make_model(name, options).parameters().specs;
  std::vector<std::string> layers;
  for (size_t i = 0; i < std::min(specs.size(), with_another.size()); ++i) {
    const std::string layer = specs[i].name.substr(0, specs[i].name.rfind('.'));
    if (specs[i].shape != with_another[i].shape && (layers.empty() || layers.back() != layer)) layers.push_back(layer);
  }
  return layers;
}

void add_classifier_loss(Graph& graph, int logits, float label_smoothing) {
  const int label = graph.input({"label", {{1, 1, 1, 1}, Storage::int32}});
  graph.add(softmax_cross_entropy("loss", {.label_smoothing = label_smoothing}), {logits, label});
}

}  // namespace pipecast
