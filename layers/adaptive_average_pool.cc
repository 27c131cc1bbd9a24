// Any image to side x side pixels. Along an axis of `size` pixels, output k is the mean of those in [k * size / side, (k + 1) * size /
// side), the first rounded down and the last up, so that windows differ in size and may overlap; an image smaller than the output is
// repeated. Input i is in the windows of the outputs [i * side / size, (i + 1) * side / size), rounded in the same way: backward gathers
// from these.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct Range {
  int64_t begin, end;
};
// The places of an axis of `to` that belong to place i of an axis of `from`.
HD Range meets(int64_t i, int64_t from, int64_t to) { return {i * to / from, ((i + 1) * to + from - 1) / from}; }

struct AdaptivePoolForward {
  Shape in, out;
  const float* x;
  float* y;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const int64_t channels = in.c, n = r / (out.h * out.w);
    const Range rows = meets(r / out.w % out.h, out.h, in.h), cols = meets(r % out.w, out.w, in.w);
    const float count = float((rows.end - rows.begin) * (cols.end - cols.begin));
    float* mean = y + r * channels;
    team.each(channels, [&](int64_t c) { mean[c] = 0; });
    for (int64_t h = rows.begin; h < rows.end; ++h)
      for (int64_t w = cols.begin; w < cols.end; ++w) {
        const float* pixel = x + ((n * in.h + h) * in.w + w) * channels;
        team.each(channels, [&](int64_t c) { mean[c] += pixel[c]; });
      }
    team.each(channels, [&](int64_t c) { mean[c] /= count; });
  }
};

struct AdaptivePoolBackward {
  Shape in, out;
  const float* dy;
  float* dx;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const int64_t channels = in.c, n = r / (in.h * in.w);
    const Range rows = meets(r / in.w % in.h, in.h, out.h), cols = meets(r % in.w, in.w, out.w);
    float* sum = dx + r * channels;
    team.each(channels, [&](int64_t c) { sum[c] = 0; });
    for (int64_t p = rows.begin; p < rows.end; ++p)
      for (int64_t q = cols.begin; q < cols.end; ++q) {
        const Range high = meets(p, out.h, in.h), wide = meets(q, out.w, in.w);
        const float count = float((high.end - high.begin) * (wide.end - wide.begin));
        const float* gradient = dy + ((n * out.h + p) * out.w + q) * channels;
        team.each(channels, [&](int64_t c) { sum[c] += gradient[c] / count; });
      }
  }
};

class AdaptiveAveragePool : public Layer {
 public:
  AdaptiveAveragePool(std::string name, int64_t side) : Layer(std::move(name)), side_(side) {}
  const char* kind() const override { return "adaptive_average_pool"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1 || x[0].shape.h < 1 || x[0].shape.w < 1) refuse(*this, x, "one of at least a pixel");
    return Shape{x[0].shape.n, side_, side_, x[0].shape.c};
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }

  void forward(const Pass& p) override {
    rows(p.device, p.y.shape.rows(), AdaptivePoolForward{p.x[0].shape, p.y.shape, p.x[0].as<float>(), p.y.as<float>()});
  }
  void backward(const Pass& p) override {
    const Tensor& dx = p.dx[0];
    if (dx.data) rows(p.device, dx.shape.rows(), AdaptivePoolBackward{dx.shape, p.dy.shape, p.dy.as<float>(), dx.as<float>()});
  }

 private:
  int64_t side_;
};

}  // namespace

std::unique_ptr<Layer> adaptive_average_pool(std::string name, int64_t side) {
  require(side >= 1, "adaptive_average_pool", name, "its side is " + std::to_string(side) + "; give at least 1");
  return std::make_unique<AdaptiveAveragePool>(std::move(name), side);
}

}  // namespace pipecast
