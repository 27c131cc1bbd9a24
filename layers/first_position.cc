// y[n] = x[n, 0]: the position that a classifier of sequences reads. dx[n, 0] = dy[n], dx[n, t] = 0 for t > 0.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct FirstPositionForward {
  const float* x;
  float* y;
  int64_t positions, features;
  HD void operator()(int64_t n, int64_t c) const { y[n * features + c] = x[n * positions * features + c]; }
};

struct FirstPositionBackward {
  const float* dy;
  float* dx;
  int64_t positions, features;
  HD void operator()(int64_t r, int64_t c) const { dx[r * features + c] = r % positions == 0 ? dy[r / positions * features + c] : 0; }
};

class FirstPosition : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "first_position"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1 || !x[0].differentiable || x[0].shape.w != 1) refuse(*this, x, "a sequence (n, length, 1, c)");
    return Shape{x[0].shape.n, 1, 1, x[0].shape.c};
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }

  void forward(const Pass& p) override {
    const Shape& s = p.x[0].shape;
    map(p.device, s.n, s.c, FirstPositionForward{p.x[0].as<float>(), p.y.as<float>(), s.h, s.c});
  }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    const Shape& s = p.dx[0].shape;
    map(p.device, s.n * s.h, s.c, FirstPositionBackward{p.dy.as<float>(), p.dx[0].as<float>(), s.h, s.c});
  }
};

}  // namespace

std::unique_ptr<Layer> first_position(std::string name) { return std::make_unique<FirstPosition>(std::move(name)); }

}  // namespace pipecast
