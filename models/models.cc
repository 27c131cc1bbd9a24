#include "models/models.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include "engine/registry.h"
#include "layers/layers.h"

namespace pipecast {
namespace {

ModelEntry amoebanet_d_row(const std::string& millions, int64_t layers, int64_t filters) {
  const std::string l = std::to_string(layers), f = std::to_string(filters);
  return {"amoebanet_d_" + l + "x" + f, millions + " M parameters, ImageNet, AmoebaNet-D (" + l + ", " + f + "); other sizes by such names",
          [=](const ModelOptions& o) { return amoebanet_d(layers, filters, o); }, 224, 1000};
}

ModelEntry unet_row(const std::string& millions, int blocks, int64_t channels) {
  const std::string b = std::to_string(blocks), c = std::to_string(channels);
  return {"unet_" + b + "x" + c, millions + " M parameters, labels of pixels, U-Net (" + b + ", " + c + "); other sizes by such names",
          [=](const ModelOptions& o) { return unet(blocks, channels, o); }, 192, 2};
}

// amoebanet_d_LxF, for any L of up to three digits and F of up to five; unet_BxC, for any B of up to three and C of up to five.
std::optional<ModelEntry> sized_model(const std::string& name) {
  int a, b;
  std::optional<ModelEntry> entry;
  if (std::sscanf(name.c_str(), "amoebanet_d_%3dx%5d", &a, &b) == 2) entry = amoebanet_d_row("", a, b);
  if (std::sscanf(name.c_str(), "unet_%3dx%5d", &a, &b) == 2) entry = unet_row("", a, b);
  return entry && entry->name == name ? entry : std::nullopt;
}

Graph gnmt_of(const std::string& name, int64_t hidden, int layers, const ModelOptions& options) {
  return gnmt(
      {.name = name, .hidden = hidden, .vocabulary = options.vocabulary, .layers = layers, .label_smoothing = options.label_smoothing});
}

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
          amoebanet_d_row("81.51", 18, 208),
          amoebanet_d_row("122.47", 18, 256),
          amoebanet_d_row("319.02", 18, 416),
          amoebanet_d_row("542.73", 18, 544),
          amoebanet_d_row("1055.83", 36, 544),
          amoebanet_d_row("1844.86", 72, 512),
          unet_row("1.13", 2, 8),
          unet_row("232.69", 5, 64),
          unet_row("362.16", 6, 72),
          unet_row("2213.83", 11, 128),
          unet_row("4993.86", 24, 128),
          unet_row("7802.90", 24, 160),
          unet_row("15822.21", 48, 160),
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
          {"transformer", "1.62 M parameters, text of 10000 tokens, three blocks of four heads",
           [](const Options& o) {
             return transformer({.vocabulary = o.vocabulary, .classes = o.classes, .label_smoothing = o.label_smoothing});
           },
           32, 2},
          {"roberta-base", "124.65 M parameters, text of 50265 tokens, to fine-tune on classes",
           [](const Options& o) { return roberta_of({}, o); }, 32, 2, 50265},
          {"roberta-tiny", "1.76 M parameters, text of 10000 tokens, two blocks of RoBERTa's",
           [](const Options& o) { return roberta_of({.name = "roberta-tiny", .features = 128, .layers = 2, .heads = 4}, o); }, 32, 2},
          {"gpt2", "124.44 M parameters, text of 50257 tokens, says the next one; tied, so on one stage",
           [](const Options& o) { return gpt2_of({}, o); }, 32, 10, 50257},
          {"gpt2-untied", "163.04 M parameters, text of 50257 tokens, the same with a matrix for the logits, for pipelines",
           [](const Options& o) { return gpt2_of({.name = "gpt2-untied", .tied = false}, o); }, 32, 10, 50257},
          {"gpt2-tiny", "2.11 M parameters, text of 10000 tokens, four blocks of GPT-2's; tied, so on one stage",
           [](const Options& o) { return gpt2_of({.name = "gpt2-tiny", .features = 128, .layers = 4, .heads = 4, .positions = 256}, o); }},
          {"gpt2-tiny-untied", "3.39 M parameters, text of 10000 tokens, the same with a matrix for the logits, for pipelines",
           [](const Options& o) {
             return gpt2_of({.name = "gpt2-tiny-untied", .features = 128, .layers = 4, .heads = 4, .positions = 256, .tied = false}, o);
           }},
      });
  return models;
}

}  // namespace

void register_model(ModelEntry entry) { registry().add(std::move(entry)); }

const std::vector<ModelEntry>& model_entries() { return registry().entries(); }

bool is_model(const std::string& name) { return registry().search(name) || sized_model(name); }

ModelEntry model_entry(const std::string& name) {
  if (!registry().search(name))
    if (const auto sized = sized_model(name)) return *sized;
  return registry().find(name);
}

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

void add_classifier_loss(Graph& graph, int logits, const ModelOptions& options, const Shape& label) {
  std::vector<int> inputs = {logits, graph.input({"label", {label, Storage::int32}})};
  if (options.mixup) {
    inputs.push_back(graph.input({"second label", {label, Storage::int32}}));
    inputs.push_back(graph.input({"share", {label, Storage::fp32, false}}));
  }
  graph.add(softmax_cross_entropy("loss", {.label_smoothing = options.label_smoothing}), std::move(inputs));
}

}  // namespace pipecast
