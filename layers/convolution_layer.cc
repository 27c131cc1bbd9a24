// y[n,i,j,o] = sum over a, b, c of x[n, i*stride + a*dilation - padding, j*stride + b*dilation - padding_w, c] * weight[o,a,b,c] (+
// bias[o]). The sums themselves are in engine/convolution/convolution.h; here they become a layer.
#include <algorithm>

#include "engine/convolution/convolution.h"
#include "layers/bias.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

class Convolution : public Layer {
 public:
  Convolution(std::string name, ConvolutionOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "convolution"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const ConvolutionOptions& o = options_;
    const auto reach = [&](int64_t kernel, int64_t padding) { return std::max<int64_t>(o.dilation * (kernel - 1) + 1 - 2 * padding, 1); };
    const int64_t h = reach(o.kernel, o.padding), w = reach(kernel_w(), padding_w());
    if (x.size() != 1 || x[0].shape.c != o.in || x[0].shape.h < h || x[0].shape.w < w)
      refuse(*this, x,
             "one of " + std::to_string(o.in) + " channels and at least " +
                 (h == w ? std::to_string(h) + " pixels in height and width" : std::to_string(h) + "x" + std::to_string(w) + " pixels"));
    return shape(x[0].shape).out();
  }
  // Weight: fan-out, as torchvision initializes its ResNets; bias: PyTorch's default.
  std::vector<ParameterSpec> parameters() const override {
    const ConvolutionOptions& o = options_;
    const float area = float(o.kernel * kernel_w());
    std::vector<ParameterSpec> specs = {{"weight",
                                         {o.out, o.kernel, kernel_w(), o.in / o.groups},
                                         o.initial.value_or(Initial{Initial::normal, std::sqrt(2 / (area * float(o.out)))})}};
    if (o.bias)
      specs.push_back({"bias", {o.out}, o.bias_initial.value_or(Initial{Initial::uniform, 1 / std::sqrt(area * float(o.in / o.groups))})});
    return specs;
  }
  Needs prepare(Device device, std::span<const TensorSpec> x) override {
    Needs needs{.input = true, .bf16 = true};
    with_element(x[0].storage, [&](auto element) {
      using T = decltype(element);
      const Planned* planned = find(device, x[0].shape, x[0].storage);
      if (!planned) planned = &plans_.emplace_back(make_plan<T>(device, x[0].shape));
      const auto& plan = planned->template plan<T>();
      if (plan) needs.workspace = plan->workspace();
      else needs.bf16 = x[0].shape.n == 0;  // an empty batch has no passes
    });
    return needs;
  }
  double flops(std::span<const TensorSpec> x) const override { return shape(x[0].shape).flops(); }
  std::string implementation(Device device, std::span<const TensorSpec> x) const override {
    const Planned* planned = find(device, x[0].shape, x[0].storage);
    if (!planned) return "";
    return planned->fp32 ? planned->fp32->implementation() : planned->bf16 ? planned->bf16->implementation() : "";
  }
  bool splits() const override { return true; }
  bool adds() const override { return true; }
  bool takes_normalised() const override {
    return !plans_.empty() &&
           std::all_of(plans_.begin(), plans_.end(), [](const Planned& p) { return p.fp32 && p.fp32->takes_normalised(); });
  }

  void forward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) { forward_of<decltype(element)>(p); });
    const Shape& out = p.y.shape;
    if (options_.bias) map(p.device, out.rows(), out.c, BiasForward{p.weight[1], p.y.as<float>(), out.c});
  }
  void backward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) { backward_of<decltype(element)>(p); });
    const Shape& out = p.dy.shape;
    if (options_.bias && !p.dweight.empty()) columns<1>(p.device, out.rows(), out.c, BiasBackward{p.dy.as<float>(), p.dweight[1], out.c});
  }

 private:
  struct Planned {
    bool gpu;
    Storage storage;
    Shape in;
    std::unique_ptr<ConvolutionPlan> fp32 = nullptr;  // the one of its storage; null in bf16 where there is none
    std::unique_ptr<ConvolutionPlanOf<Bfloat16>> bf16 = nullptr;

    template <class T>
    const auto& plan() const {
      if constexpr (storage_of<T> == Storage::bf16) return bf16;
      else return fp32;
    }
  };

  template <class T>
  void forward_of(const Pass& p) {
    const T* x = p.x[0].as<T>();
    T* y = p.y.as<T>();
    if (p.normalised) plan<T>(p).forward_normalised(p.device, x, *p.normalised, p.weight[0], y, p.workspace);
    else plan<T>(p).forward(p.device, x, p.weight[0], y, p.workspace);
  }
  template <class T>
  void backward_of(const Pass& p) {
    const T* dy = p.dy.as<T>();
    if (!p.dweight.empty()) {
      const T* x = p.x[0].as<T>();
      if (p.normalised) plan<T>(p).backward_weight_normalised(p.device, x, *p.normalised, dy, p.dweight[0], p.workspace);
      else plan<T>(p).backward_weight(p.device, x, dy, p.dweight[0], p.workspace);
    }
    if (p.dx[0].data) plan<T>(p).backward_input(p.device, dy, p.weight[0], p.dx[0].as<T>(), p.adds, p.workspace);
  }

  // With a bias none in bf16: outputs would be rounded before it is added and after.
  template <class T>
  Planned make_plan(Device device, const Shape& in) const {
    Planned planned{device.gpu, storage_of<T>, in};
    if constexpr (storage_of<T> == Storage::fp32) planned.fp32 = plan_convolution(device, shape(in));
    else if (in.n > 0 && !options_.bias) planned.bf16 = plan_convolution_bf16(device, shape(in));
    return planned;
  }
  ConvolutionShape shape(const Shape& in) const {
    const ConvolutionOptions& o = options_;
    return {in, o.out, o.kernel, kernel_w(), o.stride, o.padding, padding_w(), o.dilation, o.groups};
  }
  int64_t kernel_w() const { return options_.kernel_w.value_or(options_.kernel); }
  int64_t padding_w() const { return options_.padding_w.value_or(options_.padding); }
  const Planned* find(Device device, const Shape& in, Storage storage) const {
    for (const Planned& planned : plans_)
      if (planned.gpu == device.gpu && planned.storage == storage && planned.in == in) return &planned;
    return nullptr;
  }
  template <class T>
  ConvolutionPlanOf<T>& plan(const Pass& p) const {
    if (const Planned* planned = find(p.device, p.x[0].shape, p.x[0].storage))
      if (const auto& plan = planned->template plan<T>()) return *plan;
    throw Error("convolution '" + name() + "' has no plan for " + to_string(p.x[0].shape) + "; call prepare() with that shape first");
  }

  ConvolutionOptions options_;
  std::vector<Planned> plans_;  // one per batch shape: the full batch and the short one at the end
};

}  // namespace

std::unique_ptr<Layer> convolution(std::string name, ConvolutionOptions o) {
  require(o.in >= 1 && o.out >= 1 && o.kernel >= 1 && o.stride >= 1 && o.dilation >= 1 && o.padding >= 0 && o.kernel_w.value_or(1) >= 1 &&
              o.padding_w.value_or(0) >= 0,
          "convolution", name, "give positive channels, kernel, stride and dilation, and a padding of at least 0");
  require(o.groups >= 1 && o.in % o.groups == 0 && o.out % o.groups == 0, "convolution", name,
          std::to_string(o.groups) + " groups do not divide " + std::to_string(o.in) + " inputs and " + std::to_string(o.out) +
              " outputs; give a common divisor");
  return std::make_unique<Convolution>(std::move(name), o);
}

}  // namespace pipecast
