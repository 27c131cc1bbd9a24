// y = max(0, x); dx = dy where y > 0. A NaN passes through, so that a diverged run shows itself.
#include "engine/launch.h"
#include "engine/pack.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

template <class T>
struct ReluForward {
  const T* x;
  T* y;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t i) const {
    const auto in = load<W>(x + i);
    Pack<T, W> out;
    each<W>([&](int k) {
      const float v = in.v[k];
      out.v[k] = v < 0 ? 0 : v;
    });
    store(y + i, out);
  }
};

template <class T>
struct ReluBackward {
  const T *y, *dy;
  T* dx;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t i) const {
    const auto out = load<W>(y + i), g = load<W>(dy + i);
    Pack<T, W> in;
    each<W>([&](int k) {
      const float slope = g.v[k];
      in.v[k] = out.v[k] <= 0 ? 0 : slope;
    });
    store(dx + i, in);
  }
};

class Relu : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "relu"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return x[0];
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.output = true, .bf16 = true}; }

  void forward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, p.y.shape.count(), ReluForward<T>{p.x[0].as<T>(), p.y.as<T>()});
    });
  }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, p.y.shape.count(), ReluBackward<T>{p.y.as<T>(), p.dy.as<T>(), p.dx[0].as<T>()});
    });
  }
};

}  // namespace

std::unique_ptr<Layer> relu(std::string name) { return std::make_unique<Relu>(std::move(name)); }

}  // namespace pipecast
