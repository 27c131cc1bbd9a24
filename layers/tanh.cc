// y = tanh(x); dx = dy * (1 - y^2).
#include "engine/math.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct TanhForward {
  const float* x;
  float* y;
  HD void operator()(int64_t i) const { y[i] = tanh_(x[i]); }
};

struct TanhBackward {
  const float *y, *dy;
  float* dx;
  HD void operator()(int64_t i) const { dx[i] = dy[i] * (1 - y[i] * y[i]); }
};

class Tanh : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "tanh"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return x[0];
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.output = true}; }

  void forward(const Pass& p) override { map(p.device, p.y.shape.count(), TanhForward{p.x[0].as<float>(), p.y.as<float>()}); }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    map(p.device, p.y.shape.count(), TanhBackward{p.y.as<float>(), p.dy.as<float>(), p.dx[0].as<float>()});
  }
};

}  // namespace

std::unique_ptr<Layer> tanh(std::string name) { return std::make_unique<Tanh>(std::move(name)); }

}  // namespace pipecast
