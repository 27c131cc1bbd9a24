// y[n, i, j] = x[n, i * stride + offset, j * stride + offset], and zero where that is outside the image; dx is dy at the pixels that were
// taken and zero at the others.
#include "engine/launch.h"
#include "engine/pack.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct Places {
  Shape large, small;
  int64_t stride, offset;

  // The row of `large` that row r of `small` is taken from, or -1.
  HD int64_t source(int64_t r) const {
    const int64_t j = r % small.w * stride + offset, i = r / small.w % small.h * stride + offset, n = r / (small.w * small.h);
    return i < large.h && j < large.w ? (n * large.h + i) * large.w + j : -1;
  }
  // The row of `small` that row r of `large` is taken to, or -1.
  HD int64_t target(int64_t r) const {
    const int64_t j = r % large.w - offset, i = r / large.w % large.h - offset, n = r / (large.w * large.h);
    if (i < 0 || j < 0 || i % stride != 0 || j % stride != 0) return -1;
    return (n * small.h + i / stride) * small.w + j / stride;
  }
};

template <class T, bool forward>
struct Subsampling {
  Places places;
  const T* from;
  T* to;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t channels = places.large.c, row = forward ? places.source(r) : places.target(r);
    store(to + r * channels + c, row < 0 ? Pack<T, W>{} : load<W>(from + row * channels + c));
  }
};

class Subsample : public Layer {
 public:
  Subsample(std::string name, SubsampleOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "subsample"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return small(x[0].shape);
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.bf16 = true}; }

  void forward(const Pass& p) override { move<true>(p.device, p.x[0], p.y, p.x[0].shape); }
  void backward(const Pass& p) override {
    if (p.dx[0].data) move<false>(p.device, p.dy, p.dx[0], p.dx[0].shape);
  }

 private:
  Shape small(const Shape& large) const {
    const int64_t stride = options_.stride;
    return {large.n, (large.h + stride - 1) / stride, (large.w + stride - 1) / stride, large.c};
  }
  template <bool forward>
  void move(Device device, const Tensor& from, const Tensor& to, const Shape& large) const {
    with_element(to.storage, [&](auto element) {
      using T = decltype(element);
      const Places places{large, small(large), options_.stride, options_.offset};
      map(device, to.shape.rows(), to.shape.c, Subsampling<T, forward>{places, from.as<T>(), to.as<T>()});
    });
  }

  SubsampleOptions options_;
};

}  // namespace

std::unique_ptr<Layer> subsample(std::string name, SubsampleOptions o) {
  require(o.stride >= 1 && o.offset >= 0 && o.offset < o.stride, "subsample", name,
          "give a positive stride and an offset from 0 to before the stride");
  return std::make_unique<Subsample>(std::move(name), o);
}

}  // namespace pipecast
