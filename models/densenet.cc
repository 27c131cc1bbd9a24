// DenseNet-121 (Huang et al. 2016, "Densely connected convolutional networks", table 1): a layer reads everything that was made before it
// in its block, and adds 32 channels; between blocks a 1x1 convolution halves the channels and a pooling the sides.
//
// densenet121 is torchvision's, with the names of its state_dict. densenet121_cifar is the one for images of 32 x 32 that SpecTrain's code
// has: a 3x3 convolution as its stem, no pooling behind it, and new channels before the older ones.
#include "models/image_model.h"

namespace pipecast {
namespace {

constexpr int64_t growth = 32;
constexpr int blocks[] = {6, 12, 24, 16};

// Without a bias, fan-in, as torchvision begins them.
Features convolution(ImageModel& net, const std::string& name, Features x, ConvolutionOptions o) {
  o.initial = {Initial::normal, std::sqrt(2 / float(x.channels * o.kernel * o.kernel))};
  return net.convolution(name, x, o);
}

// The new channels: batch norm, ReLU, 1x1, batch norm, ReLU, 3x3.
Features dense_layer(ImageModel& net, const std::string& prefix, const char* norm, Features x) {
  x = convolution(net, prefix + "conv1", net.norm(prefix + norm + "1", x), {.out = 4 * growth});
  return convolution(net, prefix + "conv2", net.norm(prefix + norm + "2", x), {.out = growth, .kernel = 3, .padding = 1});
}

Features transition(ImageModel& net, const std::string& name, const char* norm, Features x) {
  net.part(name);
  x = convolution(net, name + ".conv", net.norm(name + "." + norm, x), {.out = x.channels / 2});
  return net.add(average_pool(name + ".pool", {}), x);
}

}  // namespace

Graph densenet121(const ModelOptions& options) {
  ImageModel net("densenet121", options, 29);
  net.part("features.conv0");
  Features x = convolution(net, "features.conv0", net.image(), {.out = 64, .kernel = 7, .stride = 2, .padding = 3});
  x = net.add(max_pool("features.pool0", {.kernel = 3, .stride = 2, .padding = 1}), net.norm("features.norm0", x));
  for (int b = 0; b < 4; ++b) {
    const std::string number = std::to_string(b + 1);
    for (int i = 0; i < blocks[b]; ++i) {
      const std::string layer = "features.denseblock" + number + ".denselayer" + std::to_string(i + 1);
      net.part(layer);
      x = net.concatenation(layer + ".concatenation", {x, dense_layer(net, layer + ".", "norm", x)});
    }
    if (b < 3) x = transition(net, "features.transition" + number, "norm", x);
  }
  net.part("classifier");
  x = net.add(global_average_pool("avgpool"), net.norm("features.norm5", x));
  return std::move(net).finish(net.linear("classifier", x, {.out = net.classes(), .bias_initial = Initial{Initial::constant, 0}}));
}

Graph densenet121_cifar(const ModelOptions& options) {
  ImageModel net("densenet121_cifar", options, 8);
  net.part("conv1");
  Features x = convolution(net, "conv1", net.image(), {.out = 64, .kernel = 3, .padding = 1});
  for (int b = 0; b < 4; ++b) {
    const std::string number = std::to_string(b + 1);
    for (int i = 0; i < blocks[b]; ++i) {
      const std::string layer = "dense" + number + "." + std::to_string(i);
      net.part(layer);
      x = net.concatenation(layer + ".concatenation", {dense_layer(net, layer + ".", "bn", x), x});
    }
    if (b < 3) x = transition(net, "trans" + number, "bn", x);
  }
  net.part("linear");
  x = net.add(global_average_pool("avgpool"), net.norm("bn", x));
  return std::move(net).finish(net.linear("linear", x, {.out = net.classes()}));
}

}  // namespace pipecast
