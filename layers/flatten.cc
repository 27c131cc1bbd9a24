// y[n, c * h * w + p] = x[n, p, c] for every pixel p: a sample's values as one row, in the order of an NCHW tensor. dx is dy in x's order.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// r: a pixel of all samples.
template <bool forward>
struct Reorder {
  const float* from;
  float* to;
  int64_t pixels, channels;
  HD void operator()(int64_t r, int64_t c) const {
    const int64_t nhwc = r * channels + c, nchw = (r / pixels * channels + c) * pixels + r % pixels;
    to[forward ? nchw : nhwc] = from[forward ? nhwc : nchw];
  }
};

class Flatten : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "flatten"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return Shape{x[0].shape.n, 1, 1, x[0].shape.h * x[0].shape.w * x[0].shape.c};
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }

  void forward(const Pass& p) override {
    const Shape& s = p.x[0].shape;
    map(p.device, s.rows(), s.c, Reorder<true>{p.x[0].as<float>(), p.y.as<float>(), s.h * s.w, s.c});
  }
  void backward(const Pass& p) override {
    const Tensor& dx = p.dx[0];
    const Shape& s = dx.shape;
    if (dx.data) map(p.device, s.rows(), s.c, Reorder<false>{p.dy.as<float>(), dx.as<float>(), s.h * s.w, s.c});
  }
};

}  // namespace

std::unique_ptr<Layer> flatten(std::string name) { return std::make_unique<Flatten>(std::move(name)); }

}  // namespace pipecast
