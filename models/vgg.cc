// VGG-16 (Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", table 1, column D): thirteen
// 3x3 convolutions, a pooling after the 2nd, 4th, 7th, 10th and 13th, three linear layers. Names are those of torchvision's state_dict.
//
// vgg16 and vgg16_bn are torchvision's; on images of 32 x 32, vgg16 is the network of SpecTrain's code. vgg16_cifar is that of PipeOptim's:
// with batch norm, the mean of the image and one linear layer.
#include "models/image_model.h"

namespace pipecast {
namespace {

Initial fan_out(int64_t outputs) { return {Initial::normal, std::sqrt(2 / float(9 * outputs))}; }
constexpr Initial zero{Initial::constant, 0};

// Each convolution and each pooling is a part.
Features convolutions(ImageModel& net, bool norms) {
  Features x = net.image();
  int place = 0;  // in torchvision's list of modules
  const auto next = [&] { return "features." + std::to_string(place++); };
  for (auto [count, width] : {std::pair<int, int64_t>{2, 64}, {2, 128}, {3, 256}, {3, 512}, {3, 512}}) {
    for (int i = 0; i < count; ++i) {
      const std::string name = next();
      net.part(name);
      x = net.convolution(name, x,
                          {.out = width, .kernel = 3, .padding = 1, .bias = true, .initial = fan_out(width), .bias_initial = zero});
      if (norms) x = net.norm(next(), x), ++place;  // with its ReLU
      else x = net.add(relu(next()), x);
    }
    const std::string name = next();
    net.part(name);
    x = net.add(max_pool(name, {}), x);
  }
  return x;
}

Graph with_three_linear(ImageModel&& net, Features x) {
  const auto linear = [&](const std::string& name, int64_t outputs) {
    return net.linear(name, x, {.out = outputs, .initial = Initial{Initial::normal, 0.01f}, .bias_initial = zero});
  };
  net.part("classifier.0");
  x = net.flatten("flatten", net.add(adaptive_average_pool("avgpool", 7), x), 49);
  x = net.add(relu("classifier.1"), linear("classifier.0", 4096));
  net.part("classifier.3");
  x = net.add(dropout("classifier.2", 0.5f), x);
  x = net.add(relu("classifier.4"), linear("classifier.3", 4096));
  net.part("classifier.6");
  x = net.add(dropout("classifier.5", 0.5f), x);
  return std::move(net).finish(linear("classifier.6", net.classes()));
}

}  // namespace

Graph vgg16(const ModelOptions& options) {
  ImageModel net("vgg16", options, 32);
  const Features x = convolutions(net, false);
  return with_three_linear(std::move(net), x);
}

Graph vgg16_bn(const ModelOptions& options) {
  ImageModel net("vgg16_bn", options, 32);
  const Features x = convolutions(net, true);
  return with_three_linear(std::move(net), x);
}

Graph vgg16_cifar(const ModelOptions& options) {
  ImageModel net("vgg16_cifar", options, 32);
  Features x = convolutions(net, true);
  net.part("classifier");
  x = net.add(global_average_pool("avgpool"), x);
  return std::move(net).finish(net.linear("classifier", x, {.out = net.classes()}));
}

}  // namespace pipecast
