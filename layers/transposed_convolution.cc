// y[n, i*stride + a - padding, j*stride + b - padding, o] += x[n,i,j,c] * weight[c,a,b,o], over all i, j, a, b, c; (+ bias[o]).
// That is how a convolution from y's shape to x's gives its input a gradient. So the plan of that convolution is used the other way round:
//   y = its backward_input(x);  dx = its forward(dy);  dweight += its backward_weight(dy, x)
#include "engine/convolution/convolution.h"
#include "layers/bias.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

class TransposedConvolution : public Layer {
 public:
  TransposedConvolution(std::string name, TransposedConvolutionOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "transposed_convolution"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const bool fits = x.size() == 1 && x[0].shape.c == options_.in;
    const Shape y = fits ? out(x[0].shape) : Shape{};
    if (!fits || y.h < 1 || y.w < 1)
      refuse(*this, x, "one of " + std::to_string(options_.in) + " channels, of which padding leaves a pixel");
    return y;
  }
  // Both as PyTorch begins them: it takes the outputs for the fan-in.
  std::vector<ParameterSpec> parameters() const override {
    const TransposedConvolutionOptions& o = options_;
    const Initial initial{Initial::uniform, 1 / std::sqrt(float(o.kernel * o.kernel * o.out))};
    std::vector<ParameterSpec> specs = {{"weight", {o.in, o.kernel, o.kernel, o.out}, initial}};
    if (o.bias) specs.push_back({"bias", {o.out}, initial});
    return specs;
  }
  Needs prepare(Device device, std::span<const TensorSpec> x) override {
    const Plan* plan = find(device, x[0].shape);
    if (!plan) plan = &plans_.emplace_back(Plan{device.gpu, x[0].shape, plan_convolution(device, backwards(x[0].shape))});
    return {.input = true, .workspace = plan->convolution->workspace()};
  }
  double flops(std::span<const TensorSpec> x) const override { return backwards(x[0].shape).flops(); }
  std::string implementation(Device device, std::span<const TensorSpec> x) const override {
    const Plan* plan = find(device, x[0].shape);
    return plan ? plan->convolution->implementation() : "";
  }
  bool splits() const override { return true; }

  void forward(const Pass& p) override {
    const Shape& y = p.y.shape;
    plan(p).backward_input(p.device, p.x[0].as<float>(), p.weight[0], p.y.as<float>(), false, p.workspace);
    if (options_.bias) map(p.device, y.rows(), y.c, BiasForward{p.weight[1], p.y.as<float>(), y.c});
  }
  void backward(const Pass& p) override {
    const float* dy = p.dy.as<float>();
    const Shape& y = p.dy.shape;
    if (!p.dweight.empty()) plan(p).backward_weight(p.device, dy, p.x[0].as<float>(), p.dweight[0], p.workspace);
    if (p.dx[0].data) plan(p).forward(p.device, dy, p.weight[0], p.dx[0].as<float>(), p.workspace);
    if (options_.bias && !p.dweight.empty()) columns<1>(p.device, y.rows(), y.c, BiasBackward{dy, p.dweight[1], y.c});
  }

 private:
  struct Plan {
    bool gpu;
    Shape x;
    std::unique_ptr<ConvolutionPlan> convolution;
  };

  Shape out(const Shape& x) const {
    const TransposedConvolutionOptions& o = options_;
    const int64_t more = o.kernel + o.output_padding - 2 * o.padding;
    return {x.n, (x.h - 1) * o.stride + more, (x.w - 1) * o.stride + more, o.out};
  }
  ConvolutionShape backwards(const Shape& x) const {
    const TransposedConvolutionOptions& o = options_;
    return {out(x), o.in, o.kernel, o.kernel, o.stride, o.padding, o.padding};
  }
  const Plan* find(Device device, const Shape& x) const {
    for (const Plan& plan : plans_)
      if (plan.gpu == device.gpu && plan.x == x) return &plan;
    return nullptr;
  }
  ConvolutionPlan& plan(const Pass& p) const {
    if (const Plan* plan = find(p.device, p.x[0].shape)) return *plan->convolution;
    throw Error("transposed_convolution '" + name() + "' has no plan for " + to_string(p.x[0].shape) +
                "; call prepare() with that shape first");
  }

  TransposedConvolutionOptions options_;
  std::vector<Plan> plans_;  // one per batch shape
};

}  // namespace

std::unique_ptr<Layer> transposed_convolution(std::string name, TransposedConvolutionOptions o) {
  require(
      o.in >= 1 && o.out >= 1 && o.kernel >= 1 && o.stride >= 1 && o.padding >= 0 && o.output_padding >= 0 && o.output_padding < o.stride,
      "transposed_convolution", name,
      "give positive channels, kernel and stride, a padding of at least 0, and an output padding of at least 0 and less than the stride");
  return std::make_unique<TransposedConvolution>(std::move(name), o);
}

}  // namespace pipecast
