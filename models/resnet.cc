// Residual networks (He et al. 2015, "Deep residual learning for image recognition").
//
// Names are those of torchvision's state_dict: conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, ..., fc. The networks for
// CIFAR, which torchvision does not have, are named by the same scheme with three groups instead of four.
#include <array>

#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {
namespace {

class ResNet {
 public:
  // `reduction`: how many times smaller the last group's image is than the network's input.
  ResNet(const std::string& name, const ModelOptions& options, int64_t reduction)
      : graph_(name, options.image), channels_(options.image.c) {
    const Shape image = options.image;
    if (image.c < 1) throw UsageError(name + " given images without channels: give them at least 1");
    if (image.h < reduction || image.w < reduction)
      throw UsageError(name + " makes images " + std::to_string(reduction) + " times smaller and cannot take " + std::to_string(image.h) +
                       "x" + std::to_string(image.w) + " pixels: use images of at least " + std::to_string(reduction) + "x" +
                       std::to_string(reduction) + (reduction > 4 ? " or a network for CIFAR" : ""));
    if (options.classes < 2)
      throw UsageError(name + " with classes = " + std::to_string(options.classes) + ": a classifier needs at least 2");
  }

  void stem(int64_t channels, int64_t kernel, int64_t stride) {
    graph_.part("stem");
    value_ = convolution_and_norm("conv1", "bn1", value_, channels_, channels, kernel, stride, {.relu = true});
    channels_ = channels;
  }

  void max_pool(PoolOptions options, const std::string& name) { value_ = graph_.add(pipecast::max_pool(name, options), {value_}); }

  // A convolution to `width` channels, then half the image: the start of a group of ResNet-9.
  void pooled_convolution(const std::string& name, int64_t width) {
    graph_.part(name);
    value_ = convolution_and_norm(name + ".conv", name + ".bn", value_, channels_, width, 3, 1, {.relu = true});
    max_pool({.kernel = 2, .stride = 2}, name + ".maxpool");
    channels_ = width;
  }

  // `blocks` residual blocks, the first of which has the stride.
  void group(const std::string& name, int blocks, int64_t width, int64_t stride, bool bottleneck) {
    for (int i = 0; i < blocks; ++i) {
      const std::string block = name + "." + std::to_string(i);
      graph_.part(block);
      residual_block(block + ".", width, i == 0 ? stride : 1, bottleneck);
    }
  }

  Graph head(const ModelOptions& options) {
    graph_.part("head");
    value_ = graph_.add(global_average_pool("avgpool"), {value_});
    value_ = graph_.add(linear("fc", channels_, options.classes), {value_});
    add_classifier_loss(graph_, value_, options);
    return std::move(graph_);
  }

 private:
  // Basic: 3x3, 3x3. Bottleneck: 1x1, 3x3, 1x1 to four times the width; the stride is on the 3x3, as torchvision has it.
  // The shortcut is the identity, or a projection (1x1 convolution and batch norm) where the shape changes.
  void residual_block(const std::string& prefix, int64_t width, int64_t stride, bool bottleneck) {
    const int64_t in = channels_, out = bottleneck ? 4 * width : width;
    const int block_input = value_;
    std::string last_norm;
    if (bottleneck) {
      value_ = convolution_and_norm(prefix + "conv1", prefix + "bn1", value_, in, width, 1, 1, {.relu = true});
      value_ = convolution_and_norm(prefix + "conv2", prefix + "bn2", value_, width, width, 3, stride, {.relu = true});
      value_ = convolution_only(prefix + "conv3", value_, width, out, 1, 1);
      last_norm = "bn3";
    } else {
      value_ = convolution_and_norm(prefix + "conv1", prefix + "bn1", value_, in, width, 3, stride, {.relu = true});
      value_ = convolution_only(prefix + "conv2", value_, width, out, 3, 1);
      last_norm = "bn2";
    }
    int shortcut = block_input;
    if (stride != 1 || in != out)
      shortcut = convolution_and_norm(prefix + "downsample.0", prefix + "downsample.1", block_input, in, out, 1, stride, {});
    value_ = graph_.add(batch_norm(prefix + last_norm, {.channels = out, .relu = true, .add = true}), {value_, shortcut});
    channels_ = out;
  }

  int convolution_only(const std::string& name, int input, int64_t in, int64_t out, int64_t kernel, int64_t stride) {
    return graph_.add(convolution(name, {.in = in, .out = out, .kernel = kernel, .stride = stride, .padding = kernel / 2}), {input});
  }

  int convolution_and_norm(const std::string& name, const std::string& norm_name, int input, int64_t in, int64_t out, int64_t kernel,
                           int64_t stride, BatchNormOptions norm) {
    norm.channels = out;
    return graph_.add(batch_norm(norm_name, norm), {convolution_only(name, input, in, out, kernel, stride)});
  }

  Graph graph_;
  int value_ = 0;     // the last one made; at first the image
  int64_t channels_;  // of value_
};

}  // namespace

// Section 4.2: depth = 6n + 2, n blocks at each of 16, 32 and 64 channels. The paper pads the shortcut with zero channels where
// the shape changes (its option A); here it is a projection (option B), as in the networks for ImageNet. ResNet-20 for ten
// classes so has 272 474 parameters, 2 752 more than with option A.
Graph cifar_resnet(int depth, const ModelOptions& options) {
  const int blocks = (depth - 2) / 6;
  if (blocks < 1 || 6 * blocks + 2 != depth)
    throw UsageError("no ResNet for CIFAR has " + std::to_string(depth) + " layers: use 6n + 2, as 20, 32, 44, 56 or 110");
  ResNet net("resnet" + std::to_string(depth), options, 4);
  net.stem(16, 3, 1);
  net.group("layer1", blocks, 16, 1, false);
  net.group("layer2", blocks, 32, 2, false);
  net.group("layer3", blocks, 64, 2, false);
  return net.head(options);
}

// The network of D. Page, "How to train your ResNet" (2018), made to train CIFAR-10 in seconds: few and wide layers, which keep a GPU busy.
// Its residual blocks are those of the paper here, which add before the last ReLU, and its head is too: the mean of the image, not its
// maximum, and logits that are not scaled.
Graph resnet9(const ModelOptions& options) {
  ResNet net("resnet9", options, 8);
  net.stem(64, 3, 1);
  net.pooled_convolution("layer1", 128);
  net.group("layer1", 1, 128, 1, false);
  net.pooled_convolution("layer2", 256);
  net.pooled_convolution("layer3", 512);
  net.group("layer3", 1, 512, 1, false);
  return net.head(options);
}

// Table 1: blocks per group; from 50 layers on, bottlenecks.
Graph imagenet_resnet(int depth, const ModelOptions& options) {
  std::array<int, 4> blocks;
  switch (depth) {
    case 18: blocks = {2, 2, 2, 2}; break;
    case 34:
    case 50: blocks = {3, 4, 6, 3}; break;
    case 101: blocks = {3, 4, 23, 3}; break;
    case 152: blocks = {3, 8, 36, 3}; break;
    default: throw UsageError("no ResNet for ImageNet has " + std::to_string(depth) + " layers: use 18, 34, 50, 101 or 152");
  }
  ResNet net("resnet" + std::to_string(depth), options, 32);
  net.stem(64, 7, 2);
  net.max_pool({.kernel = 3, .stride = 2, .padding = 1}, "maxpool");
  for (int i = 0; i < 4; ++i) net.group("layer" + std::to_string(i + 1), blocks[size_t(i)], int64_t(64) << i, i == 0 ? 1 : 2, depth >= 50);
  return net.head(options);
}

}  // namespace pipecast
