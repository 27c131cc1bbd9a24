// y = weight * (x - mean) / sqrt(variance + epsilon) + bias, per channel over the rows (n*h*w) of x; with `add`, plus a second
// input; with `relu`, max(0, .) of that. Training takes the batch's mean and variance, evaluation the running ones.
//
// With g = dy where y > 0 (relu), x^ = (x - mean) * inverse, inverse = 1 / sqrt(variance + epsilon), averages over the rows:
//   dx = weight * inverse * (g - average(g) - x^ * average(g * x^));  dweight += sum g * x^;  dbias += sum g;  d(second input) = g
//
// Memory sets the speed, so tensors are walked over as rarely as can be: forward reads x twice and writes y, backward reads
// x, dy (and y, for the ReLU) twice and writes dx. Both first walks are one columns<2>.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// What the running statistics tell: the counter is one element, written by the first channel.
struct Running {
  float *mean, *variance, *batches;
};

// Sums are of x - x[0], not of x: subtracting the squared mean from the mean square costs no digits then.
struct BatchNormStatistics {
  const float *x, *weight;        // rows x channels; channels
  float *mean, *inverse, *scale;  // channels; scale = weight * inverse
  Running running;
  int64_t rows, channels;
  float epsilon, momentum;
  HD Sums<2> operator()(int64_t r, int64_t c) const {
    float v = x[r * channels + c] - x[c];
    return {{v, v * v}};
  }
  HD void done(int64_t c, Sums<2> sums) const {
    const float n = float(rows), shift = sums.v[0] / n, square = sums.v[1] / n - shift * shift;
    const float variance = square < 0 ? 0 : square;
    mean[c] = x[c] + shift;
    inverse[c] = 1 / sqrtf(variance + epsilon);
    scale[c] = weight[c] * inverse[c];
    const float unbiased = rows > 1 ? variance * n / (n - 1) : variance;
    running.mean[c] += momentum * (mean[c] - running.mean[c]);
    running.variance[c] += momentum * (unbiased - running.variance[c]);
    if (c == 0) *running.batches += 1;
  }
};

// The scale of evaluation.
struct BatchNormScale {
  const float *weight, *variance;
  float* scale;
  float epsilon;
  HD void operator()(int64_t c) const { scale[c] = weight[c] / sqrtf(variance[c] + epsilon); }
};

template <bool add, bool relu>
struct BatchNormForward {
  const float *x, *second, *mean, *scale, *bias;
  float* y;
  int64_t channels;
  HD void operator()(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c;
    float v = (x[i] - mean[c]) * scale[c] + bias[c];
    if constexpr (add) v += second[i];
    if constexpr (relu) v = v < 0 ? 0 : v;
    y[i] = v;
  }
};

// scale = weight * inverse; average = average(g); slope = inverse * average(g * x^).
template <bool relu>
struct BatchNormSums {
  const float *x, *y, *dy, *mean, *inverse, *weight;
  float *dweight, *dbias, *scale, *average, *slope;
  int64_t rows, channels;
  HD Sums<2> operator()(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c;
    const float d = dy[i], g = relu && y[i] <= 0 ? 0 : d;
    return {{g, g * (x[i] - mean[c])}};
  }
  HD void done(int64_t c, Sums<2> sums) const {
    dbias[c] += sums.v[0];
    dweight[c] += sums.v[1] * inverse[c];
    scale[c] = weight[c] * inverse[c];
    average[c] = sums.v[0] / float(rows);
    slope[c] = inverse[c] * inverse[c] * sums.v[1] / float(rows);
  }
};

template <bool relu, bool wants_first, bool wants_second>
struct BatchNormBackward {
  const float *x, *y, *dy, *mean, *scale, *average, *slope;
  float *dx, *dsecond;
  int64_t channels;
  HD void operator()(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c;
    const float d = dy[i], g = relu && y[i] <= 0 ? 0 : d;
    if constexpr (wants_first) dx[i] = scale[c] * (g - average[c] - (x[i] - mean[c]) * slope[c]);
    if constexpr (wants_second) dsecond[i] = g;
  }
};

// Makes a run-time choice one of the kernel's type, so that its inner loop has no branch.
template <class Body>
void choose(bool value, const Body& body) {
  if (value) body(std::true_type{});
  else body(std::false_type{});
}

class BatchNorm : public Layer {
 public:
  BatchNorm(std::string name, BatchNormOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "batch_norm"; }

  Shape output(std::span<const Shape> x) const override {
    const size_t inputs = options_.add ? 2 : 1;
    if (x.size() != inputs || x[0].c != options_.channels || x.back() != x[0])
      refuse(*this, x, (options_.add ? "two of one shape, with " : "one of ") + std::to_string(options_.channels) + " channels");
    return x[0];
  }
  std::vector<ParameterSpec> parameters() const override {
    return {{"weight", {options_.channels}, {Initial::constant, 1}}, {"bias", {options_.channels}, {Initial::constant, 0}}};
  }
  std::vector<ParameterSpec> statistics() const override {
    return {{"running_mean", {options_.channels}, {Initial::constant, 0}},
            {"running_var", {options_.channels}, {Initial::constant, 1}},
            {"num_batches_tracked", {}, {Initial::constant, 0}, true}};
  }
  // Saved: mean, inverse. Workspace: forward scale; backward scale, average, slope.
  Needs prepare(Device, std::span<const Shape>) override {
    return {.input = true, .output = options_.relu, .saved = 2 * options_.channels, .workspace = 3 * options_.channels};
  }

  void forward(const Pass& p) override {
    const int64_t rows = p.y.shape.rows(), channels = options_.channels;
    const float *x = p.x[0].data, *weight = p.weight[0], *bias = p.weight[1];
    const Running running{p.statistics[0], p.statistics[1], p.statistics[2]};
    const float* mean = p.training ? p.saved : running.mean;
    float* scale = p.workspace;
    if (p.training)
      columns<2>(
          p.device, rows, channels,
          BatchNormStatistics{x, weight, p.saved, p.saved + channels, scale, running, rows, channels, options_.epsilon, options_.momentum});
    else map(p.device, channels, BatchNormScale{weight, running.variance, scale, options_.epsilon});
    choose(options_.add, [&](auto add) {
      choose(options_.relu, [&](auto relu) {
        map(p.device, rows, channels, BatchNormForward<add(), relu()>{x, p.x.back().data, mean, scale, bias, p.y.data, channels});
      });
    });
  }

  // Of a forward in training.
  void backward(const Pass& p) override {
    const int64_t rows = p.dy.shape.rows(), channels = options_.channels;
    const float *x = p.x[0].data, *mean = p.saved, *inverse = p.saved + channels;
    float *scale = p.workspace, *average = scale + channels, *slope = average + channels;
    float *dx = p.dx[0].data, *dsecond = options_.add ? p.dx[1].data : nullptr;
    choose(options_.relu, [&](auto relu) {
      columns<2>(p.device, rows, channels,
                 BatchNormSums<relu()>{x, p.y.data, p.dy.data, mean, inverse, p.weight[0], p.dweight[0], p.dweight[1], scale, average,
                                       slope, rows, channels});
      choose(dx != nullptr, [&](auto wants_first) {
        choose(dsecond != nullptr, [&](auto wants_second) {
          if (wants_first || wants_second)
            map(p.device, rows, channels,
                BatchNormBackward<relu(), wants_first(), wants_second()>{x, p.y.data, p.dy.data, mean, scale, average, slope, dx, dsecond,
                                                                         channels});
        });
      });
    });
  }

 private:
  BatchNormOptions options_;
};

}  // namespace

std::unique_ptr<Layer> batch_norm(std::string name, BatchNormOptions options) {
  require(options.channels >= 1, "batch_norm", name, "it has " + std::to_string(options.channels) + " channels; give at least one");
  return std::make_unique<BatchNorm>(std::move(name), options);
}

}  // namespace pipecast
