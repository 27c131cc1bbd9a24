// y = x[0] + x[1] (+ ...); dx[k] = dy.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct AddForward {
  const float *a, *b;
  float* y;
  HD void operator()(int64_t i) const { y[i] = a[i] + b[i]; }
};

struct AddBackward {
  const float* dy;
  float* dx;
  HD void operator()(int64_t i) const { dx[i] = dy[i]; }
};

class Add : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "add"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    bool same = x.size() >= 2;
    for (const TensorSpec& more : x) same = same && more == x[0];
    if (!same) refuse(*this, x, "two or more of one shape");
    return x[0];
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }

  void forward(const Pass& p) override {
    const int64_t n = p.y.shape.count();
    map(p.device, n, AddForward{p.x[0].as<float>(), p.x[1].as<float>(), p.y.as<float>()});
    for (const Tensor& more : p.x.subspan(2)) map(p.device, n, AddForward{p.y.as<float>(), more.as<float>(), p.y.as<float>()});
  }
  void backward(const Pass& p) override {
    for (const Tensor& dx : p.dx)
      if (dx.data) map(p.device, p.dy.shape.count(), AddBackward{p.dy.as<float>(), dx.as<float>()});
  }
};

}  // namespace

std::unique_ptr<Layer> add(std::string name) { return std::make_unique<Add>(std::move(name)); }

}  // namespace pipecast
