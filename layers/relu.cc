// relu:        y = max(0, x);                            dx = dy where y > 0, else 0
// leaky_relu:  y = x where x > 0, else slope * x;        dx = dy where y > 0, else slope * dy
// (Maas et al., "Rectifier nonlinearities improve neural network acoustic models", 2013). A NaN passes through, so that a diverged run
// shows itself.
#include "engine/launch.h"
#include "engine/pack.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

template <class T, bool leaky>
struct ReluForward {
  const T* x;
  T* y;
  float slope;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t i) const {
    const auto in = load<W>(x + i);
    Pack<T, W> out;
    each<W>([&](int k) {
      const float v = in.v[k];
      out.v[k] = v < 0 ? (leaky ? slope * v : 0) : v;
    });
    store(y + i, out);
  }
};

template <class T, bool leaky>
struct ReluBackward {
  const T *y, *dy;
  T* dx;
  float slope;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t i) const {
    const auto out = load<W>(y + i), g = load<W>(dy + i);
    Pack<T, W> in;
    each<W>([&](int k) {
      const float v = g.v[k];
      in.v[k] = out.v[k] <= 0 ? (leaky ? slope * v : 0) : v;
    });
    store(dx + i, in);
  }
};

template <bool leaky>
class Relu : public Layer {
 public:
  Relu(std::string name, float slope) : Layer(std::move(name)), slope_(slope) {}
  const char* kind() const override { return leaky ? "leaky_relu" : "relu"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return x[0];
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.output = true, .bf16 = true}; }

  void forward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, p.y.shape.count(), ReluForward<T, leaky>{p.x[0].as<T>(), p.y.as<T>(), slope_});
    });
  }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, p.y.shape.count(), ReluBackward<T, leaky>{p.y.as<T>(), p.dy.as<T>(), p.dx[0].as<T>(), slope_});
    });
  }

 private:
  float slope_;
};

}  // namespace

std::unique_ptr<Layer> relu(std::string name) { return std::make_unique<Relu<false>>(std::move(name), 0.f); }

std::unique_ptr<Layer> leaky_relu(std::string name, float slope) {
  require(slope >= 0 && slope < 1, "leaky_relu", name, "the slope is " + std::to_string(slope) + "; give one in [0, 1)");
  return std::make_unique<Relu<true>>(std::move(name), slope);
}

}  // namespace pipecast
