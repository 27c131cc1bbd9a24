// AlexNet (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014), as torchvision has it: five convolutions,
// three linear layers that hold 96 % of the weights, no normalisation. Names are those of torchvision's state_dict.
#include "models/image_model.h"

namespace pipecast {

Graph alexnet(const ModelOptions& options) {
  ImageModel net("alexnet", options, 63);
  Features x = net.image();
  // As PyTorch begins a convolution that is told nothing else.
  const auto convolution_and_relu = [&](int place, ConvolutionOptions o) {
    const std::string name = "features." + std::to_string(place);
    net.part(name);
    o.bias = true;
    o.initial = {Initial::uniform, 1 / std::sqrt(float(x.channels * o.kernel * o.kernel))};
    x = net.add(relu("features." + std::to_string(place + 1)), net.convolution(name, x, o));
  };
  const auto pool = [&](int place) {
    const std::string name = "features." + std::to_string(place);
    net.part(name);
    x = net.add(max_pool(name, {.kernel = 3, .stride = 2}), x);
  };
  convolution_and_relu(0, {.out = 64, .kernel = 11, .stride = 4, .padding = 2});
  pool(2);
  convolution_and_relu(3, {.out = 192, .kernel = 5, .padding = 2});
  pool(5);
  convolution_and_relu(6, {.out = 384, .kernel = 3, .padding = 1});
  convolution_and_relu(8, {.out = 256, .kernel = 3, .padding = 1});
  convolution_and_relu(10, {.out = 256, .kernel = 3, .padding = 1});
  pool(12);

  net.part("classifier.1");
  x = net.flatten("flatten", net.add(adaptive_average_pool("avgpool", 6), x), 36);
  x = net.add(dropout("classifier.0", 0.5f), x);
  x = net.add(relu("classifier.2"), net.linear("classifier.1", x, {.out = 4096}));
  net.part("classifier.4");
  x = net.add(dropout("classifier.3", 0.5f), x);
  x = net.add(relu("classifier.5"), net.linear("classifier.4", x, {.out = 4096}));
  net.part("classifier.6");
  return std::move(net).finish(net.linear("classifier.6", x, {.out = net.classes()}));
}

}  // namespace pipecast
