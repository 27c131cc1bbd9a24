// GoogLeNet (Szegedy et al. 2014, "Going deeper with convolutions", table 1), with batch norm: blocks of four branches, of a 1x1
// convolution, a 1x1 and a 3x3, a 1x1 and what the paper has as a 5x5, and a pooling and a 1x1, whose outputs stand side by side.
//
// googlenet is torchvision's, with the names of its state_dict; the "5x5" is a 3x3 there. Its two auxiliary classifiers are left out, in
// training too; their tensors (aux1, aux2) may be in files of weights and are not read. torchvision's own weights expect images normalised
// by a mean and a deviation of 0.5 (its transform_input).
//
// googlenet_cifar is the one for images of 32 x 32 that the code of SpecTrain and PipeOptim has: one 3x3 convolution as its stem, two 3x3
// convolutions for the 5x5, convolutions with biases.
#include "models/image_model.h"

namespace pipecast {
namespace {

// Channels of the branches: 1x1; 1x1 and 3x3; 1x1 and "5x5"; the pooling's 1x1.
struct Block {
  const char* name;
  int64_t one, three_in, three, five_in, five, pool;
};
const Block blocks[] = {{"3a", 64, 96, 128, 16, 32, 32},     {"3b", 128, 128, 192, 32, 96, 64},   {"4a", 192, 96, 208, 16, 48, 64},
                        {"4b", 160, 112, 224, 24, 64, 64},   {"4c", 128, 128, 256, 24, 64, 64},   {"4d", 112, 144, 288, 32, 64, 64},
                        {"4e", 256, 160, 320, 32, 128, 128}, {"5a", 256, 160, 320, 32, 128, 128}, {"5b", 384, 192, 384, 48, 128, 128}};

// torchvision's module of a convolution, its batch norm and a ReLU.
Features basic(ImageModel& net, const std::string& name, Features x, ConvolutionOptions o) {
  o.initial = {Initial::normal, 0.01f};
  return net.norm(name + ".bn", net.convolution(name + ".conv", x, o), {.epsilon = 1e-3f, .relu = true});
}

Features inception(ImageModel& net, const Block& b, Features x) {
  const std::string name = "inception" + std::string(b.name);
  net.part(name);
  const Features one = basic(net, name + ".branch1", x, {.out = b.one});
  Features three = basic(net, name + ".branch2.0", x, {.out = b.three_in});
  three = basic(net, name + ".branch2.1", three, {.out = b.three, .kernel = 3, .padding = 1});
  Features five = basic(net, name + ".branch3.0", x, {.out = b.five_in});
  five = basic(net, name + ".branch3.1", five, {.out = b.five, .kernel = 3, .padding = 1});
  Features pool = net.add(max_pool(name + ".branch4.0", {.kernel = 3, .stride = 1, .padding = 1}), x);
  pool = basic(net, name + ".branch4.1", pool, {.out = b.pool});
  return net.concatenation(name, {one, three, five, pool});
}

// Places in a sequence of modules: a convolution, its batch norm, a ReLU.
Features at_place(ImageModel& net, const std::string& sequence, int place, Features x, int64_t out, int64_t kernel) {
  const auto name = [&](int p) { return sequence + "." + std::to_string(p); };
  return net.norm(name(place + 1), net.convolution(name(place), x, {.out = out, .kernel = kernel, .padding = kernel / 2, .bias = true}));
}

Features cifar_inception(ImageModel& net, const std::string& name, const Block& b, Features x) {
  net.part(name);
  const Features one = at_place(net, name + ".b1", 0, x, b.one, 1);
  const Features three = at_place(net, name + ".b2", 3, at_place(net, name + ".b2", 0, x, b.three_in, 1), b.three, 3);
  Features five = at_place(net, name + ".b3", 0, x, b.five_in, 1);
  five = at_place(net, name + ".b3", 6, at_place(net, name + ".b3", 3, five, b.five, 3), b.five, 3);
  const Features pooled = net.add(max_pool(name + ".b4.0", {.kernel = 3, .stride = 1, .padding = 1}), x);
  return net.concatenation(name, {one, three, five, at_place(net, name + ".b4", 1, pooled, b.pool, 1)});
}

}  // namespace

Graph googlenet(const ModelOptions& options) {
  ImageModel net("googlenet", options, 15);
  net.leave_out("aux1.");
  net.leave_out("aux2.");
  const auto pool = [&](const std::string& name, Features x, int64_t kernel) {
    net.part(name);
    return net.add(max_pool(name, {.kernel = kernel, .stride = 2, .ceil = true}), x);
  };
  net.part("conv1");
  Features x = basic(net, "conv1", net.image(), {.out = 64, .kernel = 7, .stride = 2, .padding = 3});
  x = pool("maxpool1", x, 3);
  net.part("conv2");
  x = basic(net, "conv2", x, {.out = 64});
  net.part("conv3");
  x = basic(net, "conv3", x, {.out = 192, .kernel = 3, .padding = 1});
  x = pool("maxpool2", x, 3);
  for (const Block& b : blocks) {
    x = inception(net, b, x);
    if (b.name == std::string("3b")) x = pool("maxpool3", x, 3);
    if (b.name == std::string("4e")) x = pool("maxpool4", x, 2);
  }
  net.part("fc");
  x = net.add(dropout("dropout", 0.2f), net.add(global_average_pool("avgpool"), x));
  return std::move(net).finish(net.linear("fc", x, {.out = net.classes(), .initial = Initial{Initial::normal, 0.01f}}));
}

Graph googlenet_cifar(const ModelOptions& options) {
  ImageModel net("googlenet_cifar", options, 4);
  net.part("pre_layers");
  Features x = at_place(net, "pre_layers", 0, net.image(), 192, 3);
  for (const Block& b : blocks) {
    const std::string name{b.name[1], b.name[0]};  // "a3", as that code has it
    x = cifar_inception(net, name, b, x);
    if (name != "b3" && name != "e4") continue;
    net.part("maxpool" + name.substr(1));
    x = net.add(max_pool("maxpool" + name.substr(1), {.kernel = 3, .stride = 2, .padding = 1}), x);
  }
  net.part("linear");
  x = net.add(global_average_pool("avgpool"), x);
  return std::move(net).finish(net.linear("linear", x, {.out = net.classes()}));
}

}  // namespace pipecast
