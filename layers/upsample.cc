// y[n,i,j,c] = x[n, i / factor, j / factor, c], rounded down: every pixel becomes factor x factor of them, as torch.nn.Upsample has it
// (nearest). Where y is asked for larger than that, it is 0 below and to the right of x's pixels.
//   dx[n,i,j,c] = sum of dy over those pixels
#include "engine/launch.h"
#include "engine/pack.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// The sizes of x and y, and which rows (n * height + row) * width + column belong together.
struct Enlargement {
  int64_t factor, in_h, in_w, out_h, out_w, channels;
};

template <class T>
struct UpsampleForward {
  Enlargement size;
  const T* x;
  T* y;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t j = r % size.out_w / size.factor, line = r / size.out_w, i = line % size.out_h / size.factor;
    const bool inside = i < size.in_h && j < size.in_w;
    const int64_t from = inside ? (line / size.out_h * size.in_h + i) * size.in_w + j : 0;
    const auto in = load<W>(x + from * size.channels + c);
    Pack<T, W> out;
    each<W>([&](int k) { out.v[k] = inside ? in.v[k] : T(0.f); });
    store(y + r * size.channels + c, out);
  }
};

template <class T>
struct UpsampleBackward {
  Enlargement size;
  const T* dy;
  T* dx;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t j = r % size.in_w * size.factor, line = r / size.in_w, i = line % size.in_h * size.factor;
    const T* first = dy + ((line / size.in_h * size.out_h + i) * size.out_w + j) * size.channels + c;
    Pack<float, W> sum{};
    for (int64_t a = 0; a < size.factor; ++a)
      for (int64_t b = 0; b < size.factor; ++b) {
        const auto g = load<W>(first + (a * size.out_w + b) * size.channels);
        each<W>([&](int k) { sum.v[k] += float(g.v[k]); });
      }
    Pack<T, W> out;
    each<W>([&](int k) { out.v[k] = sum.v[k]; });
    store(dx + r * size.channels + c, out);
  }
};

class Upsample : public Layer {
 public:
  Upsample(std::string name, UpsampleOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "upsample"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const UpsampleOptions& o = options_;
    if (x.size() != 1 || (o.h > 0 && x[0].shape.h * o.factor > o.h) || (o.w > 0 && x[0].shape.w * o.factor > o.w))
      refuse(*this, x, "one" + (o.h + o.w == 0 ? "" : " whose sides times " + std::to_string(o.factor) + " are not above the output's"));
    const Shape& in = x[0].shape;
    return Shape{in.n, o.h > 0 ? o.h : in.h * o.factor, o.w > 0 ? o.w : in.w * o.factor, in.c};
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.bf16 = true}; }

  void forward(const Pass& p) override {
    with_element(p.y.storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, p.y.shape.rows(), p.y.shape.c, UpsampleForward<T>{sizes(p.x[0].shape, p.y.shape), p.x[0].as<T>(), p.y.as<T>()});
    });
  }
  void backward(const Pass& p) override {
    const Tensor& dx = p.dx[0];
    if (!dx.data) return;
    with_element(dx.storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, dx.shape.rows(), dx.shape.c, UpsampleBackward<T>{sizes(dx.shape, p.dy.shape), p.dy.as<T>(), dx.as<T>()});
    });
  }

 private:
  Enlargement sizes(const Shape& in, const Shape& out) const { return {options_.factor, in.h, in.w, out.h, out.w, in.c}; }

  UpsampleOptions options_;
};

}  // namespace

std::unique_ptr<Layer> upsample(std::string name, UpsampleOptions o) {
  require(o.factor >= 1 && o.h >= 0 && o.w >= 0, "upsample", name,
          "give a factor of at least 1, and sides of at least 1, or 0 for the factor's");
  return std::make_unique<Upsample>(std::move(name), o);
}

}  // namespace pipecast
