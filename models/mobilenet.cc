// MobileNetV2 (Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2). Names are those of torchvision's
// state_dict. A block widens by a 1x1 convolution, works on each channel by itself with a 3x3 one, and narrows by a 1x1 one without a ReLU;
// where shape and stride allow, its input is added.
#include "models/image_model.h"

namespace pipecast {
namespace {

constexpr BatchNormOptions relu6{.relu = true, .ceiling = 6};

Features convolution_and_relu6(ImageModel& net, const std::string& name, Features x, ConvolutionOptions options) {
  options.padding = options.kernel / 2;
  return net.norm(name + ".1", net.convolution(name + ".0", x, options), relu6);
}

Features inverted_residual(ImageModel& net, const std::string& name, Features input, int64_t expansion, int64_t out, int64_t stride) {
  Features x = input;
  int place = 0;  // in torchvision's list of modules
  const auto next = [&] { return name + ".conv." + std::to_string(place++); };
  if (expansion != 1) x = convolution_and_relu6(net, next(), x, {.out = expansion * x.channels});
  x = convolution_and_relu6(net, next(), x, {.out = x.channels, .kernel = 3, .stride = stride, .groups = x.channels});
  x = net.convolution(next(), x, {.out = out});
  if (stride != 1 || input.channels != out) return net.norm(next(), x, {});
  return net.add_and_norm(next(), x, input, {});
}

}  // namespace

Graph mobilenet_v2(const ModelOptions& options) {
  ImageModel net("mobilenet_v2", options, 1);
  int place = 0;
  const auto next_part = [&] {
    const std::string name = "features." + std::to_string(place++);
    net.part(name);
    return name;
  };
  Features x = convolution_and_relu6(net, next_part(), net.image(), {.out = 32, .kernel = 3, .stride = 2});
  struct Group {
    int64_t expansion, channels;
    int blocks;
    int64_t stride;  // of the first
  };
  for (auto [expansion, channels, blocks, stride] :
       {Group{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}})
    for (int i = 0; i < blocks; ++i) x = inverted_residual(net, next_part(), x, expansion, channels, i == 0 ? stride : 1);
  x = convolution_and_relu6(net, next_part(), x, {.out = 1280});

  net.part("classifier");
  x = net.add(global_average_pool("avgpool"), x);
  x = net.add(dropout("classifier.0", 0.2f), x);
  return std::move(net).finish(
      net.linear("classifier.1", x,
                 {.out = net.classes(), .initial = Initial{Initial::normal, 0.01f}, .bias_initial = Initial{Initial::constant, 0}}));
}

}  // namespace pipecast
