// y[n, c] = the mean of x[n, t, c] over t < length[n], 0 where that is none; dx[n, t, c] = dy[n, c] / length[n] for t < length[n], else 0.
// The positions are added in order and those behind the length are not read, so that padding changes no bit.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct MaskedMeanForward {
  const float* x;
  const int32_t* length;
  float* y;
  int64_t positions, features;
  HD void operator()(int64_t n, int64_t c) const {
    const float* from = x + n * positions * features + c;
    float sum = 0;
    for (int64_t t = 0; t < length[n]; ++t) sum += from[t * features];
    y[n * features + c] = length[n] > 0 ? sum / float(length[n]) : 0;
  }
};

struct MaskedMeanBackward {
  const float* dy;
  const int32_t* length;
  float* dx;
  int64_t positions, features;
  HD void operator()(int64_t r, int64_t c) const {
    const int64_t n = r / positions, t = r % positions;
    dx[r * features + c] = t < length[n] ? dy[n * features + c] / float(length[n]) : 0;
  }
};

class MaskedMean : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "masked_mean"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const bool two = x.size() == 2 && x[0].differentiable && x[0].shape.w == 1 && x[1].storage == Storage::int32;
    if (!two || x[1].shape != Shape{x[0].shape.n, 1, 1, 1}) refuse(*this, x, "a sequence (n, length, 1, c), and an int32 length for each sample");
    return Shape{x[0].shape.n, 1, 1, x[0].shape.c};
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.input = true}; }  // of the inputs, the lengths

  void forward(const Pass& p) override {
    const Shape& s = p.x[0].shape;
    map(p.device, s.n, s.c, MaskedMeanForward{p.x[0].as<float>(), p.x[1].as<int32_t>(), p.y.as<float>(), s.h, s.c});
  }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    const Shape& s = p.x[0].shape;
    map(p.device, s.n * s.h, s.c, MaskedMeanBackward{p.dy.as<float>(), p.x[1].as<int32_t>(), p.dx[0].as<float>(), s.h, s.c});
  }
};

}  // namespace

std::unique_ptr<Layer> masked_mean(std::string name) { return std::make_unique<MaskedMean>(std::move(name)); }

}  // namespace pipecast
