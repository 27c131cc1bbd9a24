// y[n,i,j,o] = sum over a, b, c of x[n, i*stride + a*dilation - padding, j*stride + b*dilation - padding, c] * weight[o,a,b,c] (+ bias[o]).
// The sums themselves are in engine/convolution.h; here they become a layer.
#include <algorithm>

#include "engine/convolution.h"
#include "layers/bias.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

class Convolution : public Layer {
 public:
  Convolution(std::string name, ConvolutionOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "convolution"; }

  Shape output(std::span<const Shape> x) const override {
    const ConvolutionOptions& o = options_;
    const int64_t reach = o.dilation * (o.kernel - 1) + 1 - 2 * o.padding;
    if (x.size() != 1 || x[0].c != o.in || x[0].h < reach || x[0].w < reach)
      refuse(*this, x,
             "one of " + std::to_string(o.in) + " channels and at least " + std::to_string(std::max<int64_t>(reach, 1)) +
                 " pixels in height and width");
    return shape(x[0]).out();
  }
  // Weight: fan-out, as torchvision initializes its ResNets; bias: PyTorch's default.
  std::vector<ParameterSpec> parameters() const override {
    const ConvolutionOptions& o = options_;
    const float area = float(o.kernel * o.kernel);
    std::vector<ParameterSpec> specs = {
        {"weight", {o.out, o.kernel, o.kernel, o.in / o.groups}, {Initial::normal, std::sqrt(2 / (area * float(o.out)))}}};
    if (o.bias) specs.push_back({"bias", {o.out}, {Initial::uniform, 1 / std::sqrt(area * float(o.in / o.groups))}});
    return specs;
  }
  Needs prepare(Device device, std::span<const Shape> x) override {
    const Planned* planned = find(device, x[0]);
    if (!planned) planned = &plans_.emplace_back(Planned{device.gpu, x[0], plan_convolution(device, shape(x[0]))});
    return {.input = true, .workspace = planned->plan->workspace()};
  }
  double flops(std::span<const Shape> x) const override { return shape(x[0]).flops(); }
  std::string implementation(Device device, std::span<const Shape> x) const override {
    const Planned* planned = find(device, x[0]);
    return planned ? planned->plan->implementation() : "";
  }
  bool splits() const override { return true; }
  bool adds() const override { return true; }
  bool takes_normalised() const override {
    return !plans_.empty() && std::all_of(plans_.begin(), plans_.end(), [](const Planned& p) { return p.plan->takes_normalised(); });
  }

  void forward(const Pass& p) override {
    const float* x = p.x[0].data;
    if (p.normalised) plan(p).forward_normalised(p.device, x, *p.normalised, p.weight[0], p.y.data, p.workspace);
    else plan(p).forward(p.device, x, p.weight[0], p.y.data, p.workspace);
    const Shape& y = p.y.shape;
    if (options_.bias) map(p.device, y.rows(), y.c, BiasForward{p.weight[1], p.y.data, y.c});
  }
  void backward(const Pass& p) override {
    const Shape& y = p.dy.shape;
    if (!p.dweight.empty()) {
      const float* x = p.x[0].data;
      if (p.normalised) plan(p).backward_weight_normalised(p.device, x, *p.normalised, p.dy.data, p.dweight[0], p.workspace);
      else plan(p).backward_weight(p.device, x, p.dy.data, p.dweight[0], p.workspace);
      if (options_.bias) columns<1>(p.device, y.rows(), y.c, BiasBackward{p.dy.data, p.dweight[1], y.c});
    }
    if (p.dx[0].data) plan(p).backward_input(p.device, p.dy.data, p.weight[0], p.dx[0].data, p.adds, p.workspace);
  }

 private:
  struct Planned {
    bool gpu;
    Shape in;
    std::unique_ptr<ConvolutionPlan> plan;
  };

  ConvolutionShape shape(const Shape& in) const {
    const ConvolutionOptions& o = options_;
    return {in, o.out, o.kernel, o.kernel, o.stride, o.padding, o.dilation, o.groups};
  }
  const Planned* find(Device device, const Shape& in) const {
    for (const Planned& planned : plans_)
      if (planned.gpu == device.gpu && planned.in == in) return &planned;
    return nullptr;
  }
  ConvolutionPlan& plan(const Pass& p) {
    const Planned* planned = find(p.device, p.x[0].shape);
    if (!planned)
      throw Error("convolution '" + name() + "' has no plan for " + to_string(p.x[0].shape) + "; call prepare() with that shape first");
    return *planned->plan;
  }

  ConvolutionOptions options_;
  std::vector<Planned> plans_;  // one per batch shape: the full batch and the short one at the end
};

}  // namespace

std::unique_ptr<Layer> convolution(std::string name, ConvolutionOptions o) {
  require(o.in >= 1 && o.out >= 1 && o.kernel >= 1 && o.stride >= 1 && o.dilation >= 1 && o.padding >= 0, "convolution", name,
          "give positive channels, kernel, stride and dilation, and a padding of at least 0");
  require(o.groups >= 1 && o.in % o.groups == 0 && o.out % o.groups == 0, "convolution", name,
          std::to_string(o.groups) + " groups do not divide " + std::to_string(o.in) + " inputs and " + std::to_string(o.out) +
              " outputs; give a common divisor");
  return std::make_unique<Convolution>(std::move(name), o);
}

}  // namespace pipecast
