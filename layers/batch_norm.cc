// y = weight * (x - mean) / sqrt(variance + epsilon) + bias, per channel over the rows (n*h*w) of x; with `add`, plus a second
// input; with `relu`, min(ceiling, max(0, .)) of that. Training takes the batch's mean and variance, evaluation the running ones.
//
// With g = dy where 0 < y < ceiling (relu), x^ = (x - mean) * inverse, inverse = 1 / sqrt(variance + epsilon), averages over the rows:
//   dx = weight * inverse * (g - average(g) - x^ * average(g * x^));  dweight += sum g * x^;  dbias += sum g;  d(second input) = g
//
// Memory sets the speed, so tensors are walked over as rarely as can be: forward reads x twice and writes y, backward reads
// x, dy (and with a second input y, for the ReLU) twice and writes dx. Both first walks are one columns<2>. With a ReLU and without a
// second input y need not be written: see Layer::normalises().
#include "engine/math.h"
#include "engine/pack.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// The running statistics and how a batch of `rows` rows moves them: running = (1 - momentum) * running + momentum * batch, the
// batch's variance being the unbiased one.
//
// Deferred (Kim et al., "torchgpipe", 2020), the batch is the mini-batch: it is joined from its micro-batches by Chan's formula
// (Chan, Golub and LeVeque 1983), where a and b are two sets of rows, d the difference of their means and s their sums of squared
// deviations:  mean = mean_a + d * rows_b / rows;  s = s_a + s_b + d^2 * rows_a * rows_b / rows.
// Every micro-batch moves the statistics from where they were before the mini-batch to where it has got so far, so that
// whichever happens to be the last leaves them right.
struct Running {
  float *mean, *variance, *batches;  // channels; channels; one element, counted by the first channel
  // Deferred, else null; 4 x channels: mean and variance before the mini-batch, mean and sum of squared deviations of its rows so far.
  float* minibatch;
  int64_t rows_before, rows, channels;  // of the mini-batch so far; of this pass
  float momentum;
  HD void add(int64_t c, float batch_mean, float deviations) const {
    float n = float(rows), mean_before = mean[c], variance_before = variance[c];
    if (minibatch) {
      float *old_mean = minibatch + c, *old_variance = old_mean + channels, *joined_mean = old_variance + channels,
            *joined = joined_mean + channels;
      if (rows_before == 0) {
        *old_mean = mean_before, *old_variance = variance_before;
      } else {
        mean_before = *old_mean, variance_before = *old_variance;
        const float a = float(rows_before), d = batch_mean - *joined_mean, share = n / (a + n);
        batch_mean = *joined_mean + d * share;
        deviations += *joined + d * d * a * share;
        n += a;
      }
      *joined_mean = batch_mean, *joined = deviations;
    }
    const float unbiased = n > 1 ? deviations / (n - 1) : deviations;
    mean[c] = mean_before + momentum * (batch_mean - mean_before);
    variance[c] = variance_before + momentum * (unbiased - variance_before);
    if (c == 0 && rows_before == 0) *batches += 1;
  }
};

// Sums are of x - x[0], not of x: subtracting the squared mean from the mean square costs no digits then.
template <class T>
struct BatchNormStatistics {
  const T* x;                             // rows x channels
  const float *weight, *bias;             // channels
  float *mean, *inverse, *scale, *shift;  // channels; scale = weight * inverse, shift = bias
  Running running;
  bool replay;  // leaves `running` as it is
  int64_t rows, channels;
  float epsilon;
  HD Sums<2> operator()(int64_t r, int64_t c) const {
    const float v = x[r * channels + c] - x[c];
    return {{v, v * v}};
  }
  HD void done(int64_t c, Sums<2> sums) const {
    const float n = float(rows), distance = sums.v[0] / n, square = sums.v[1] / n - distance * distance;
    const float variance = square < 0 ? 0 : square;
    mean[c] = x[c] + distance;
    inverse[c] = 1 / sqrtf(variance + epsilon);
    scale[c] = weight[c] * inverse[c], shift[c] = bias[c];
    if (!replay) running.add(c, mean[c], variance * n);
  }
};

// The same of evaluation.
struct BatchNormEvaluation {
  const float *weight, *bias, *running_mean, *running_variance;
  float *mean, *scale, *shift;
  float epsilon;
  HD void operator()(int64_t c) const {
    mean[c] = running_mean[c], scale[c] = weight[c] / sqrtf(running_variance[c] + epsilon), shift[c] = bias[c];
  }
};

// bounds: of y; 0: none, 1: the ReLU's, 2: the ceiling too. A choice of the type, as a value that is compared in vain costs a tenth.
template <class T, bool add, int bounds>
struct BatchNormForward {
  const T *x, *second;
  const float *mean, *scale, *shift;
  T* y;
  int64_t channels;
  float ceiling;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c;
    const auto in = load<W>(x + i), more = load<W>((add ? second : x) + i);
    const auto center = load<W>(mean + c), factor = load<W>(scale + c), offset = load<W>(shift + c);
    Pack<T, W> out;
    each<W>([&](int k) {
      float v = fma_(in.v[k] - center.v[k], factor.v[k], offset.v[k]);
      if constexpr (add) v += more.v[k];
      if constexpr (bounds > 0) v = v < 0 ? 0 : v;
      if constexpr (bounds > 1) v = v > ceiling ? ceiling : v;
      out.v[k] = v;
    });
    store(y + i, out);
  }
};

// g: where a second input was added y tells where the ReLU let through, else what y was made of.
template <class T, bool add, int bounds>
struct BatchNormGradient {
  const T *x, *y, *dy;
  const float *mean, *scale, *shift;  // of the forward
  int64_t channels;
  float ceiling;
  HD const T* output() const { return bounds > 0 && add ? y : dy; }  // y where value() reads it; elsewhere y may be null
  HD float value(float in, float out, float d, float center, float factor, float offset) const {
    const float made = add ? out : fma_(in - center, factor, offset);
    if constexpr (bounds > 1) d = made >= ceiling ? 0 : d;
    return bounds > 0 && made <= 0 ? 0 : d;
  }
};

// scale = weight * inverse, of the weights that the backward reads; average = average(g); slope = inverse * average(g * x^).
template <class T, bool add, int bounds>
struct BatchNormSums {
  BatchNormGradient<T, add, bounds> g;
  const float *inverse, *weight;
  float *dweight, *dbias, *scale, *average, *slope;
  int64_t rows;
  HD Sums<2> operator()(int64_t r, int64_t c) const {
    const int64_t i = r * g.channels + c;
    const float in = g.x[i], gradient = g.value(in, g.output()[i], g.dy[i], g.mean[c], g.scale[c], g.shift[c]);
    return {{gradient, gradient * (in - g.mean[c])}};
  }
  HD void done(int64_t c, Sums<2> sums) const {
    dbias[c] += sums.v[0];
    dweight[c] += sums.v[1] * inverse[c];
    scale[c] = weight[c] * inverse[c];
    average[c] = sums.v[0] / float(rows);
    slope[c] = inverse[c] * inverse[c] * sums.v[1] / float(rows);
  }
};

template <class T, bool add, int bounds, bool wants_first, bool wants_second>
struct BatchNormBackward {
  BatchNormGradient<T, add, bounds> g;
  const float *scale, *average, *slope;
  T *dx, *dsecond;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t i = r * g.channels + c;
    const auto in = load<W>(g.x + i), out = load<W>(g.output() + i), d = load<W>(g.dy + i);
    const auto center = load<W>(g.mean + c), factor = load<W>(g.scale + c), offset = load<W>(g.shift + c);
    const auto multiple = load<W>(scale + c), middle = load<W>(average + c), tilt = load<W>(slope + c);
    Pack<T, W> first, second;
    each<W>([&](int k) {
      const float gradient = g.value(in.v[k], out.v[k], d.v[k], center.v[k], factor.v[k], offset.v[k]);
      first.v[k] = multiple.v[k] * fma_(center.v[k] - in.v[k], tilt.v[k], gradient - middle.v[k]);
      second.v[k] = gradient;
    });
    if constexpr (wants_first) store(dx + i, first);
    if constexpr (wants_second) store(dsecond + i, second);
  }
};

// Makes a run-time choice one of the kernel's type, so that its inner loop has no branch.
template <class Body>
void choose(bool value, const Body& body) {
  if (value) body(std::true_type{});
  else body(std::false_type{});
}

constexpr float infinity = std::numeric_limits<float>::infinity();

class BatchNorm : public Layer {
 public:
  BatchNorm(std::string name, BatchNormOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "batch_norm"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const size_t inputs = options_.add ? 2 : 1;
    if (x.size() != inputs || x[0].shape.c != options_.channels || x.back() != x[0])
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
  // Saved: mean, inverse, scale, shift. Workspace: backward's scale, average, slope. Shared: see Running.
  Needs prepare(Device, std::span<const TensorSpec>) override {
    const int64_t channels = options_.channels;
    const bool reads_output = options_.relu && options_.add;
    return {.input = true, .output = reads_output, .bf16 = true, .saved = 4 * channels, .workspace = 3 * channels, .shared = 4 * channels};
  }
  bool compares_rows() const override { return true; }
  bool normalises() const override { return options_.relu && !options_.add && options_.ceiling == infinity; }
  Normalised normalised(const Pass& p) const override {
    const int64_t channels = options_.channels;
    return {p.saved, p.saved + 2 * channels, p.saved + 3 * channels};
  }

  void forward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) { forward_of<decltype(element)>(p); });
  }
  // Of a forward in training.
  void backward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) { backward_of<decltype(element)>(p); });
  }

 private:
  template <class Body>
  void choose_bounds(const Body& body) const {
    if (!options_.relu) body(std::integral_constant<int, 0>{});
    else if (options_.ceiling == infinity) body(std::integral_constant<int, 1>{});
    else body(std::integral_constant<int, 2>{});
  }

  template <class T>
  void forward_of(const Pass& p) {
    const int64_t rows = p.y.shape.rows(), channels = options_.channels;
    const T* x = p.x[0].as<T>();
    const float *weight = p.weight[0], *bias = p.weight[1];
    float *mean = p.saved, *inverse = mean + channels, *scale = inverse + channels, *shift = scale + channels;
    Running running{p.statistics[0], p.statistics[1], p.statistics[2], nullptr, 0, rows, channels, options_.momentum};
    if (p.deferred) running.minibatch = p.shared, running.rows_before = p.samples_before * (rows / p.y.shape.n);
    if (p.training)
      columns<2>(p.device, rows, channels,
                 BatchNormStatistics<T>{x, weight, bias, mean, inverse, scale, shift, running, p.replay, rows, channels, options_.epsilon});
    else map(p.device, channels, BatchNormEvaluation{weight, bias, running.mean, running.variance, mean, scale, shift, options_.epsilon});
    if (!p.y.data) return;
    choose(options_.add, [&](auto add) {
      choose_bounds([&](auto bounds) {
        map(p.device, rows, channels,
            BatchNormForward<T, add(), bounds()>{x, p.x.back().as<T>(), mean, scale, shift, p.y.as<T>(), channels, options_.ceiling});
      });
    });
  }

  template <class T>
  void backward_of(const Pass& p) {
    const int64_t rows = p.dy.shape.rows(), channels = options_.channels;
    const Normalised saved = normalised(p);
    const float* inverse = p.saved + channels;
    float *scale = p.workspace, *average = scale + channels, *slope = average + channels;
    T *dx = p.dx[0].as<T>(), *dsecond = options_.add ? p.dx[1].as<T>() : nullptr;
    choose(options_.add, [&](auto add) {
      choose_bounds([&](auto bounds) {
        const BatchNormGradient<T, add(), bounds()> g{p.x[0].as<T>(), p.y.as<T>(), p.dy.as<T>(), saved.mean,
                                                      saved.scale,    saved.shift, channels,     options_.ceiling};
        columns<2>(p.device, rows, channels,
                   BatchNormSums<T, add(), bounds()>{g, inverse, p.weight[0], p.dweight[0], p.dweight[1], scale, average, slope, rows});
        choose(dx != nullptr, [&](auto wants_first) {
          choose(dsecond != nullptr, [&](auto wants_second) {
            if constexpr (wants_first() || wants_second())
              map(p.device, rows, channels,
                  BatchNormBackward<T, add(), bounds(), wants_first(), wants_second()>{g, scale, average, slope, dx, dsecond});
          });
        });
      });
    });
  }

  BatchNormOptions options_;
};

}  // namespace

std::unique_ptr<Layer> batch_norm(std::string name, BatchNormOptions options) {
  require(options.channels >= 1, "batch_norm", name, "it has " + std::to_string(options.channels) + " channels; give at least one");
  require(options.ceiling > 0, "batch_norm", name, "its ceiling is " + std::to_string(options.ceiling) + "; give one above 0");
  return std::make_unique<BatchNorm>(std::move(name), options);
}

}  // namespace pipecast
