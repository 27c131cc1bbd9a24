// y = max(0, x); dx = dy where y > 0. A NaN passes through, so that a diverged run shows itself.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct ReluForward {
  const float* x;
  float* y;
  HD void operator()(int64_t i) const { y[i] = x[i] < 0 ? 0 : x[i]; }
};

struct ReluBackward {
  const float *y, *dy;
  float* dx;
  HD void operator()(int64_t i) const {
    const float g = dy[i];  // read on both sides of the choice: a loop with a conditional load does not vectorize
    dx[i] = y[i] <= 0 ? 0 : g;
  }
};

class Relu : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "relu"; }

  Shape output(std::span<const Shape> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return x[0];
  }
  Needs prepare(Device, std::span<const Shape>) override { return {.output = true}; }

  void forward(const Pass& p) override { map(p.device, p.y.shape.count(), ReluForward{p.x[0].data, p.y.data}); }
  void backward(const Pass& p) override {
    if (p.dx[0].data) map(p.device, p.y.shape.count(), ReluBackward{p.y.data, p.dy.data, p.dx[0].data});
  }
};

}  // namespace

std::unique_ptr<Layer> relu(std::string name) { return std::make_unique<Relu>(std::move(name)); }

}  // namespace pipecast
