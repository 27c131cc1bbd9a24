// y[r] = (x[0][r], x[1][r], ...) for every pixel r: the channels side by side; dx[k] is the slice of dy that x[k] went to.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// x: rows x channels, at column `offset` of y: rows x total.
struct ConcatenationForward {
  const float* x;
  float* y;
  int64_t channels, total, offset;
  HD void operator()(int64_t r, int64_t c) const { y[r * total + offset + c] = x[r * channels + c]; }
};

struct ConcatenationBackward {
  const float* dy;
  float* dx;
  int64_t channels, total, offset;
  HD void operator()(int64_t r, int64_t c) const { dx[r * channels + c] = dy[r * total + offset + c]; }
};

class Concatenation : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "concatenation"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    bool fit = x.size() >= 2;
    Shape y = fit ? x[0].shape : Shape{};
    y.c = 0;
    for (const TensorSpec& more : x) {
      fit = fit && more.shape.n == x[0].shape.n && more.shape.h == x[0].shape.h && more.shape.w == x[0].shape.w;
      y.c += more.shape.c;
    }
    if (!fit) refuse(*this, x, "two or more that differ in their channels only");
    return y;
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }

  void forward(const Pass& p) override {
    int64_t offset = 0;
    for (const Tensor& x : p.x) {
      const int64_t channels = x.shape.c;
      map(p.device, x.shape.rows(), channels, ConcatenationForward{x.as<float>(), p.y.as<float>(), channels, p.y.shape.c, offset});
      offset += channels;
    }
  }
  void backward(const Pass& p) override {
    int64_t offset = 0;
    for (const Tensor& dx : p.dx) {
      const int64_t channels = dx.shape.c;
      if (dx.data)
        map(p.device, dx.shape.rows(), channels, ConcatenationBackward{p.dy.as<float>(), dx.as<float>(), channels, p.dy.shape.c, offset});
      offset += channels;
    }
  }
};

}  // namespace

std::unique_ptr<Layer> concatenation(std::string name) { return std::make_unique<Concatenation>(std::move(name)); }

}  // namespace pipecast
