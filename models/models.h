#pragma once
// The models by name. What ships is in models.cc, a row each; a program adds its own with register_model().
#include <functional>
#include <string>
#include <vector>

#include "models/graph.h"

namespace pipecast {

// The largest that a model is made for; the side is that of the pictures that are read.
constexpr int64_t most_classes = 100000, most_image_side = 4096, most_image_channels = 64, most_vocabulary = 1 << 30;

struct ModelOptions {
  Shape image = {1, 32, 32, 3};
  int64_t classes = 10;
  float label_smoothing = 0;  // of the loss, in training
  int64_t vocabulary = 10000;  // tokens, where the model reads them
  bool mixup = false;          // images are mixtures of two (data/augmentation.h): the loss reads both labels and the share of the first
};

// Throws UsageError, with the nearest known name, for an unknown model.
Graph make_model(const std::string& name, const ModelOptions&);

// Appends the loss of a classifier to the last part: softmax cross-entropy of the logits (n, 1, 1, classes) with the input "label",
// and with mixup "second label" and "share". Of the options it reads label_smoothing and mixup. label:
// the shape of a sample's, for logits of every pixel (n, h, w, classes).
void add_classifier_loss(Graph&, int logits, const ModelOptions&, const Shape& label = {});
inline void add_classifier_loss(Graph& graph, int logits, float label_smoothing) {
  add_classifier_loss(graph, logits, ModelOptions{.label_smoothing = label_smoothing});
}

struct ModelEntry {
  std::string name, summary;
  std::function<Graph(const ModelOptions&)> make;
  // What it was made for: height and width of the images, number of classes, of different tokens.
  int64_t image = 32, classes = 10, vocabulary = ModelOptions().vocabulary;
};
const std::vector<ModelEntry>& model_entries();
bool is_model(const std::string& name);
// One of them, or an AmoebaNet-D or U-Net of other sizes, which its name tells. Throws UsageError, with the nearest known name, for an
// unknown model.
ModelEntry model_entry(const std::string& name);
// The layers of such a model whose parameters depend on the number of classes: its head, and heads beside it.
std::vector<std::string> head_layers(const std::string& name, ModelOptions);
// Adds a model that make_model() then finds by its name. Throws UsageError for a name that is taken.
void register_model(ModelEntry);

// One family per file:
Graph resnet9(const ModelOptions&);
Graph cifar_resnet(int depth, const ModelOptions&);     // 20, 32, 44, 56, 110
Graph imagenet_resnet(int depth, const ModelOptions&);  // 18, 34, 50, 101, 152
Graph alexnet(const ModelOptions&);
Graph vgg16(const ModelOptions&);
Graph vgg16_bn(const ModelOptions&);
Graph vgg16_cifar(const ModelOptions&);
Graph googlenet(const ModelOptions&);
Graph googlenet_cifar(const ModelOptions&);
Graph inception_v3(const ModelOptions&);
Graph densenet121(const ModelOptions&);
Graph densenet121_cifar(const ModelOptions&);
Graph mobilenet_v2(const ModelOptions&);
Graph amoebanet_d(int64_t layers, int64_t filters, const ModelOptions&);  // (L, F); a multiple of 3, a multiple of 8
Graph unet(int blocks, int64_t channels, const ModelOptions&);            // of pixels; blocks a level, channels of the first level
Graph bag_of_embeddings(const ModelOptions&);           // of text
struct ResidualLstmOptions {
  int64_t width = 128, vocabulary = 10000, classes = 2;
  int blocks = 4;
  float label_smoothing = 0;
};
// A classifier of text, see models/residual_lstm.cc. Inputs: tokens and length.
Graph residual_lstm(const ResidualLstmOptions&);

struct GnmtOptions {
  std::string name = "gnmt-8";
  int64_t hidden = 1024, vocabulary = 32320;  // the vocabulary of both languages
  int layers = 4;                             // of the encoder, whose first one goes both ways, and of the decoder; at least 3
  float dropout = 0.2f, label_smoothing = 0;
};
// Translation, see models/gnmt.cc. Inputs: tokens and length of the source; target_in, what the decoder is given, and target_length;
// target, what it is to say, -100 in the padding.
Graph gnmt(const GnmtOptions&);

struct TransformerOptions {
  int64_t features = 128, blocks = 3, heads = 4, positions = 200, vocabulary = 10000, classes = 2;
  float dropout = 0.5f, label_smoothing = 0;
};
// A classifier of text, see models/transformer.cc. Inputs: tokens and length.
Graph transformer(const TransformerOptions&);

struct RobertaOptions {
  std::string name = "roberta-base";
  int64_t features = 768, layers = 12, heads = 12, positions = 512, vocabulary = 50265, classes = 2;
  float dropout = 0.1f, label_smoothing = 0;
};
// A classifier of text that reads the first position, see models/roberta.cc. Inputs: tokens and length.
Graph roberta(const RobertaOptions&);

struct Gpt2Options {
  std::string name = "gpt2";
  int64_t features = 768, layers = 12, heads = 12, positions = 1024, vocabulary = 50257;
  bool tied = true;  // the logits' matrix is that of the tokens' embedding
  float dropout = 0.1f, label_smoothing = 0;
};
Graph gpt2(const Gpt2Options&);

}  // namespace pipecast
