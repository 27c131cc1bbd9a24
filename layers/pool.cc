// Max and average over windows: output pixel (i, j) covers the input pixels (i*stride - padding + a, j*stride - padding + b)
// for a < kernel_h, b < kernel_w. Windows that would end beyond the padding are left out; with `ceil` they are kept, as PyTorch's ceil_mode
// keeps them, where they begin inside the image or in the padding before it.
//
//   max      y = max over the window; dx gathers dy from the windows whose maximum it was (the first of equal ones)
//   average  y = sum over the window / (kernel_h * kernel_w), padding counting as zeros; dx gathers dy / (kernel_h * kernel_w). Where
//   padding
//            does not count, the divisor is the number of the window's pixels that are inside the image.
//
// Backward walks over the input and gathers from the windows that cover a pixel: no two threads write one element.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct Windows {
  Shape in, out;
  int64_t kernel_h, kernel_w, stride, padding;
  bool count_padding = true;

  // A range of one axis.
  struct Range {
    int64_t begin, end;
  };
  // Where the window of output i lies within [0, kernel) once padding is cut off, for an axis of `size` input pixels.
  HD Range inside(int64_t i, int64_t kernel, int64_t size) const {
    int64_t start = i * stride - padding;
    return {start < 0 ? -start : 0, start + kernel > size ? size - start : kernel};
  }
  // The outputs whose windows cover input i, for an axis of `size` outputs.
  HD Range covering(int64_t i, int64_t kernel, int64_t size) const {
    int64_t last = (i + padding) / stride, before = i + padding - kernel;
    return {before < 0 ? 0 : before / stride + 1, last < size ? last + 1 : size};
  }

  // What the sum over the window of output pixel r is divided by.
  HD float divisor(int64_t r) const {
    if (count_padding) return float(kernel_h * kernel_w);
    const Range rows = inside(r / out.w % out.h, kernel_h, in.h), cols = inside(r % out.w, kernel_w, in.w);
    return float((rows.end - rows.begin) * (cols.end - cols.begin));
  }

  // visit(position within the window, pointer to the channels of that input pixel) for the window of output pixel r.
  template <class Visit>
  HD void each_input(const float* x, int64_t r, const Visit& visit) const {
    int64_t n = r / (out.h * out.w), i = r / out.w % out.h, j = r % out.w;
    Range rows = inside(i, kernel_h, in.h), cols = inside(j, kernel_w, in.w);
    for (int64_t a = rows.begin; a < rows.end; ++a)
      for (int64_t b = cols.begin; b < cols.end; ++b)
        visit(a * kernel_w + b, x + ((n * in.h + i * stride - padding + a) * in.w + j * stride - padding + b) * in.c);
  }
  // visit(position of this input pixel within the window, row of the output pixel) for the windows that cover input pixel r.
  template <class Visit>
  HD void each_output(int64_t r, const Visit& visit) const {
    int64_t n = r / (in.h * in.w), i = r / in.w % in.h, j = r % in.w;
    Range rows = covering(i, kernel_h, out.h), cols = covering(j, kernel_w, out.w);
    for (int64_t k = rows.begin; k < rows.end; ++k)
      for (int64_t l = cols.begin; l < cols.end; ++l)
        visit((i + padding - k * stride) * kernel_w + j + padding - l * stride, (n * out.h + k) * out.w + l);
  }
};

// winner: for each element of y, the position of its maximum within the window. A NaN wins, as in PyTorch.
struct MaxPoolForward {
  Windows windows;
  const float* x;
  float *y, *winner;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const int64_t channels = windows.in.c;
    float *best = y + r * channels, *where = winner + r * channels;
    bool first = true;
    windows.each_input(x, r, [&](int64_t position, const float* in) {
      const float here = float(position);
      if (first) team.each(channels, [&](int64_t c) { best[c] = in[c], where[c] = here; });
      else
        team.each(channels, [&](int64_t c) {
          bool wins = in[c] > best[c] || in[c] != in[c];
          best[c] = wins ? in[c] : best[c];
          where[c] = wins ? here : where[c];
        });
      first = false;
    });
  }
};

struct MaxPoolBackward {
  Windows windows;
  const float *dy, *winner;
  float* dx;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const int64_t channels = windows.in.c;
    float* out = dx + r * channels;
    team.each(channels, [&](int64_t c) { out[c] = 0; });
    windows.each_output(r, [&](int64_t position, int64_t from) {
      const float *gradient = dy + from * channels, *where = winner + from * channels, here = float(position);
      team.each(channels, [&](int64_t c) {
        const float g = gradient[c];
        out[c] += where[c] == here ? g : 0;
      });
    });
  }
};

struct AveragePoolForward {
  Windows windows;
  const float* x;
  float* y;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const int64_t channels = windows.in.c;
    const float divisor = windows.divisor(r);
    float* out = y + r * channels;
    team.each(channels, [&](int64_t c) { out[c] = 0; });
    windows.each_input(x, r, [&](int64_t, const float* in) { team.each(channels, [&](int64_t c) { out[c] += in[c]; }); });
    team.each(channels, [&](int64_t c) { out[c] /= divisor; });
  }
};

struct AveragePoolBackward {
  Windows windows;
  const float* dy;
  float* dx;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const int64_t channels = windows.in.c;
    float* out = dx + r * channels;
    team.each(channels, [&](int64_t c) { out[c] = 0; });
    windows.each_output(r, [&](int64_t, int64_t from) {
      const float *gradient = dy + from * channels, divisor = windows.divisor(from);
      team.each(channels, [&](int64_t c) { out[c] += gradient[c] / divisor; });
    });
  }
};

class Pool : public Layer {
 public:
  Pool(std::string name, PoolOptions options) : Layer(std::move(name)), options_(options) {}

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const int64_t beyond = 2 * options_.padding + (options_.ceil ? options_.stride - 1 : 0);  // of a window, outside the image
    const int64_t smallest = std::max<int64_t>(1, options_.kernel - beyond);
    if (x.size() != 1 || x[0].shape.h < smallest || x[0].shape.w < smallest)
      refuse(*this, x, "one of at least " + std::to_string(smallest) + " pixels in height and width");
    return windows(x[0].shape).out;
  }

 protected:
  virtual Windows windows(const Shape& in) const {
    const PoolOptions& o = options_;
    return {in, {in.n, windows(in.h), windows(in.w), in.c}, o.kernel, o.kernel, o.stride, o.padding, o.count_padding};
  }

 private:
  // Along an axis of so many pixels.
  int64_t windows(int64_t size) const {
    const auto& [kernel, stride, padding, ceil, count_padding] = options_;
    const int64_t steps = size + 2 * padding - kernel;
    if (!ceil) return steps / stride + 1;
    const int64_t count = (steps + stride - 1) / stride + 1;
    return (count - 1) * stride >= size + padding ? count - 1 : count;
  }

  PoolOptions options_;
};

class MaxPool : public Pool {
 public:
  using Pool::Pool;
  const char* kind() const override { return "max_pool"; }
  Needs prepare(Device, std::span<const TensorSpec> x) override { return {.saved = output(x).shape.count()}; }

  void forward(const Pass& p) override {
    rows(p.device, p.y.shape.rows(), MaxPoolForward{windows(p.x[0].shape), p.x[0].as<float>(), p.y.as<float>(), p.saved});
  }
  void backward(const Pass& p) override {
    const Tensor& dx = p.dx[0];
    if (dx.data) rows(p.device, dx.shape.rows(), MaxPoolBackward{windows(dx.shape), p.dy.as<float>(), p.saved, dx.as<float>()});
  }
};

class AveragePool : public Pool {
 public:
  using Pool::Pool;
  const char* kind() const override { return "average_pool"; }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }

  void forward(const Pass& p) override {
    rows(p.device, p.y.shape.rows(), AveragePoolForward{windows(p.x[0].shape), p.x[0].as<float>(), p.y.as<float>()});
  }
  void backward(const Pass& p) override {
    const Tensor& dx = p.dx[0];
    if (dx.data) rows(p.device, dx.shape.rows(), AveragePoolBackward{windows(dx.shape), p.dy.as<float>(), dx.as<float>()});
  }
};

// One window, the whole image.
class GlobalAveragePool : public AveragePool {
 public:
  explicit GlobalAveragePool(std::string name) : AveragePool(std::move(name), {.kernel = 1}) {}
  const char* kind() const override { return "global_average_pool"; }

 protected:
  Windows windows(const Shape& in) const override { return {in, {in.n, 1, 1, in.c}, in.h, in.w, 1, 0}; }
};

void check_options(const char* kind, const std::string& name, const PoolOptions& o) {
  require(o.kernel >= 1 && o.stride >= 1 && o.padding >= 0 && 2 * o.padding <= o.kernel, kind, name,
          "give a positive kernel and stride, and a padding from 0 to half the kernel");
}

}  // namespace

std::unique_ptr<Layer> max_pool(std::string name, PoolOptions options) {
  check_options("max_pool", name, options);
  return std::make_unique<MaxPool>(std::move(name), options);
}
std::unique_ptr<Layer> average_pool(std::string name, PoolOptions options) {
  check_options("average_pool", name, options);
  return std::make_unique<AveragePool>(std::move(name), options);
}
std::unique_ptr<Layer> global_average_pool(std::string name) { return std::make_unique<GlobalAveragePool>(std::move(name)); }

}  // namespace pipecast
