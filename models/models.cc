#include "models/models.h"

#include <algorithm>

#include "engine/registry.h"
#include "layers/layers.h"

namespace pipecast {
namespace {

Graph roberta_of(RobertaOptions sizes, const ModelOptions& options) {
  sizes.vocabulary = options.vocabulary, sizes.classes = options.classes, sizes.label_smoothing = options.label_smoothing;
  return roberta(sizes);
}

Graph gpt2_of(Gpt2Options sizes, const ModelOptions& options) {
  sizes.vocabulary = options.vocabulary, sizes.label_smoothing = options.label_smoothing;
  return gpt2(sizes);
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
          {"transformer", "1.62 M parameters, text of 10000 tokens, three blocks of four heads", 
           [](const Options& o) { return transformer({.vocabulary = o.vocabulary, .classes = o.classes, .label_smoothing = o.label_smoothing}); }, 32, 2},
          {"roberta-base", "124.65 M parameters, text of 50265 tokens, to fine-tune on classes", [](const Options& o) { return roberta_of({}, o); }, 32, 2, 50265},
          {"roberta-tiny", "1.76 M parameters, text of 10000 tokens, two blocks of RoBERTa's",
           [](const Options& o) { return roberta_of({.name = "roberta-tiny", .features = 128, .layers = 2, .heads = 4}, o); }, 32, 2},
          {"gpt2", "124.44 M parameters, text of 50257 tokens, says the next one; tied, so on one stage", [](const Options& o) { return gpt2_of({}, o); }, 32, 10, 50257},
          {"gpt2-untied", "163.04 M parameters, text of 50257 tokens, the same with a matrix for the logits, for pipelines",
           [](const Options& o) { return gpt2_of({.name = "gpt2-untied", .tied = false}, o); }, 32, 10, 50257},
          {"gpt2-tiny", "2.11 M parameters, text of 10000 tokens, four blocks of GPT-2's; tied, so on one stage",
           [](const Options& o) { return gpt2_of({.name = "gpt2-tiny", .features = 128, .layers = 4, .heads = 4, .positions = 256}, o); }},
          {"gpt2-tiny-untied", "3.39 M parameters, text of 10000 tokens, the same with a matrix for the logits, for pipelines",
           [](const Options& o) { return gpt2_of({.name = "gpt2-tiny-untied", .features = 128, .layers = 4, .heads = 4, .positions = 256, .tied = false}, o); }},
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
