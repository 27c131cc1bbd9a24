// y = weight * (x - mean) / sqrt(variance + epsilon) + bias, with the mean and variance of each channel of each sample over its pixels
// (Ulyanov et al., "Instance normalization: the missing ingredient for fast stylization", 2016); in evaluation too. Without `affine` the
// weight is 1 and the bias 0. With a slope y becomes slope * y where it is below 0: leaky ReLU in the same kernel.
//
// With g = dy (times slope where y < 0), x^ = (x - mean) * inverse, inverse = 1 / sqrt(variance + epsilon), averages over a sample's
// pixels:
//   dx = weight * inverse * (g - average(g) - x^ * average(g * x^));  dweight += sum g * x^;  dbias += sum g
#include "engine/math.h"
#include "engine/pack.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// Of one sample. Sums are of x - x[0], not of x: subtracting the squared mean from the mean square costs no digits then.
template <class T>
struct InstanceStatistics {
  const T* x;                             // pixels x channels
  const float *weight, *bias;             // channels; null: 1 and 0
  float *mean, *inverse, *scale, *shift;  // channels; scale = weight * inverse, shift = bias
  int64_t pixels, channels;
  float epsilon;
  HD Sums<2> operator()(int64_t r, int64_t c) const {
    const float v = x[r * channels + c] - x[c];
    return {{v, v * v}};
  }
  HD void done(int64_t c, Sums<2> sums) const {
    const float n = float(pixels), distance = sums.v[0] / n, square = sums.v[1] / n - distance * distance;
    const float variance = square < 0 ? 0 : square;
    mean[c] = x[c] + distance;
    inverse[c] = 1 / sqrtf(variance + epsilon);
    scale[c] = weight ? weight[c] * inverse[c] : inverse[c];
    shift[c] = bias ? bias[c] : 0;
  }
};

// Of all samples: row r is a pixel of sample r / pixels.
template <class T>
struct InstanceNormForward {
  const T* x;
  const float *mean, *scale, *shift;  // n x channels
  T* y;
  int64_t pixels, channels;
  float slope;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c, s = r / pixels * channels + c;
    const auto in = load<W>(x + i);
    const auto center = load<W>(mean + s), factor = load<W>(scale + s), offset = load<W>(shift + s);
    Pack<T, W> out;
    each<W>([&](int k) {
      const float v = fma_(in.v[k] - center.v[k], factor.v[k], offset.v[k]);
      out.v[k] = v < 0 ? slope * v : v;
    });
    store(y + i, out);
  }
};

// The leaky ReLU's derivative, which makes g of dy; what it was given is computed again.
HD float derivative(float distance, float factor, float offset, float slope) { return fma_(distance, factor, offset) < 0 ? slope : 1; }

// Of one sample. multiple = weight * inverse, of the weight that the backward reads; average = average(g); tilt = inverse * average(g *
// x^).
template <class T>
struct InstanceSums {
  const T *x, *dy;                                               // pixels x channels
  const float *mean, *inverse, *scale, *shift, *weight;          // channels; weight may be null
  float *multiple, *average, *tilt, *sum_along, *sum_gradients;  // channels; the sums of g * x^ and of g
  int64_t pixels, channels;
  float slope;
  HD Sums<2> operator()(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c;
    const float distance = x[i] - mean[c], g = derivative(distance, scale[c], shift[c], slope) * dy[i];
    return {{g, g * distance}};
  }
  HD void done(int64_t c, Sums<2> sums) const {
    const float n = float(pixels), along = sums.v[1] * inverse[c];
    sum_gradients[c] = sums.v[0], sum_along[c] = along;
    multiple[c] = weight ? weight[c] * inverse[c] : inverse[c];
    average[c] = sums.v[0] / n, tilt[c] = along / n * inverse[c];
  }
};

template <class T>
struct InstanceNormBackward {
  const T *x, *dy;
  const float *mean, *scale, *shift, *multiple, *average, *tilt;  // n x channels
  T* dx;
  int64_t pixels, channels;
  float slope;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c, s = r / pixels * channels + c;
    const auto in = load<W>(x + i), up = load<W>(dy + i);
    const auto center = load<W>(mean + s), factor = load<W>(scale + s), offset = load<W>(shift + s);
    const auto outer = load<W>(multiple + s), level = load<W>(average + s), along = load<W>(tilt + s);
    Pack<T, W> out;
    each<W>([&](int k) {
      const float distance = in.v[k] - center.v[k];
      const float steep = derivative(distance, factor.v[k], offset.v[k], slope);
      out.v[k] = outer.v[k] * fma_(-distance, along.v[k], fma_(steep, up.v[k], -level.v[k]));
    });
    store(dx + i, out);
  }
};

// The parameters' gradients are the sums over the samples.
struct AddSamples {
  const float *sum_along, *sum_gradients;  // n x channels
  float *dweight, *dbias;
  int64_t channels;
  HD Sums<2> operator()(int64_t n, int64_t c) const { return {{sum_along[n * channels + c], sum_gradients[n * channels + c]}}; }
  HD void done(int64_t c, Sums<2> sums) const { dweight[c] += sums.v[0], dbias[c] += sums.v[1]; }
};

class InstanceNorm : public Layer {
 public:
  InstanceNorm(std::string name, InstanceNormOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "instance_norm"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1 || x[0].shape.c != options_.channels || x[0].shape.h * x[0].shape.w < 2)
      refuse(*this, x, "one of " + std::to_string(options_.channels) + " channels and more than one pixel");
    return x[0];
  }
  std::vector<ParameterSpec> parameters() const override {
    if (!options_.affine) return {};
    return {{"weight", {options_.channels}, {Initial::constant, 1}}, {"bias", {options_.channels}, {Initial::constant, 0}}};
  }
  // A value per sample and channel each. Saved: mean, inverse, scale, shift. Workspace, of backward: multiple, average, tilt, and the sums
  // of g * x^ and of g.
  Needs prepare(Device, std::span<const TensorSpec> x) override {
    const int64_t values = x[0].shape.n * x[0].shape.c;
    return {.input = true, .bf16 = true, .saved = 4 * values, .workspace = 5 * values};
  }

  void forward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) { forward_of<decltype(element)>(p); });
  }
  void backward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) { backward_of<decltype(element)>(p); });
  }

 private:
  template <class T>
  void forward_of(const Pass& p) const {
    const Shape& shape = p.y.shape;
    const int64_t channels = shape.c, pixels = shape.h * shape.w, values = shape.n * channels;
    const float *weight = options_.affine ? p.weight[0] : nullptr, *bias = options_.affine ? p.weight[1] : nullptr;
    float *mean = p.saved, *inverse = mean + values, *scale = inverse + values, *shift = scale + values;
    for (int64_t n = 0, at = 0; n < shape.n; ++n, at += channels)
      columns<2>(p.device, pixels, channels,
                 InstanceStatistics<T>{p.x[0].as<T>() + at * pixels, weight, bias, mean + at, inverse + at, scale + at, shift + at, pixels,
                                       channels, options_.epsilon});
    map(p.device, shape.rows(), channels,
        InstanceNormForward<T>{p.x[0].as<T>(), mean, scale, shift, p.y.as<T>(), pixels, channels, options_.slope});
  }

  template <class T>
  void backward_of(const Pass& p) const {
    const Shape& shape = p.dy.shape;
    const int64_t channels = shape.c, pixels = shape.h * shape.w, values = shape.n * channels;
    const float* weight = options_.affine ? p.weight[0] : nullptr;
    const float *mean = p.saved, *inverse = mean + values, *scale = inverse + values, *shift = scale + values;
    float *multiple = p.workspace, *average = multiple + values, *tilt = average + values, *along = tilt + values,
          *gradients = along + values;
    const T *x = p.x[0].as<T>(), *dy = p.dy.as<T>();
    for (int64_t n = 0, at = 0; n < shape.n; ++n, at += channels)
      columns<2>(p.device, pixels, channels,
                 InstanceSums<T>{x + at * pixels, dy + at * pixels, mean + at, inverse + at, scale + at, shift + at, weight, multiple + at,
                                 average + at, tilt + at, along + at, gradients + at, pixels, channels, options_.slope});
    if (options_.affine) columns<2>(p.device, shape.n, channels, AddSamples{along, gradients, p.dweight[0], p.dweight[1], channels});
    if (p.dx[0].data)
      map(p.device, shape.rows(), channels,
          InstanceNormBackward<T>{x, dy, mean, scale, shift, multiple, average, tilt, p.dx[0].as<T>(), pixels, channels, options_.slope});
  }

  InstanceNormOptions options_;
};

}  // namespace

std::unique_ptr<Layer> instance_norm(std::string name, InstanceNormOptions options) {
  require(options.channels >= 1, "instance_norm", name, "it has " + std::to_string(options.channels) + " channels; give at least one");
  require(options.slope >= 0 && options.slope <= 1, "instance_norm", name,
          "the slope is " + std::to_string(options.slope) + "; give one in [0, 1]");
  return std::make_unique<InstanceNorm>(std::move(name), options);
}

}  // namespace pipecast
