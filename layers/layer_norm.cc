// Over the channels of each row: y = weight * (x - mean) / sqrt(variance + epsilon) + bias (Ba, Kiros and Hinton 2016). With a second
// input, x = x[0] + x[1]: the end of a residual block, which is not written down.
//
// With h = (x - mean) * r, r = 1 / sqrt(variance + epsilon) and g = dy * weight:
//   dx = r * (g - mean(g) - h * mean(g * h)),   dweight += sum of dy * h,   dbias += sum of dy
// The sums over rows are made in chunks of 32 rows of a sample, then over chunks and samples in order: rows of zeros behind a sample's
// length change no bit, nor does the number of threads.
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

constexpr int64_t chunk_rows = 32;

struct LayerNormForward {
  const float *x, *second;  // rows x channels; second: or null
  const float *weight, *bias;
  float* y;
  float* factors;  // rows x (mean, r)
  int64_t channels;
  float epsilon;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const float *a = x + r * channels, *b = second ? second + r * channels : nullptr;
    float* to = y + r * channels;
    if (b) normalise(team, r, to, [=](int64_t c) { return a[c] + b[c]; });
    else normalise(team, r, to, [=](int64_t c) { return a[c]; });
  }
  template <class Team, class Value>
  HD void normalise(Team team, int64_t r, float* to, Value value) const {
    const float mean = team.sum(channels, value) / float(channels);
    const float squares = team.sum(channels, [&](int64_t c) {
      const float d = value(c) - mean;
      return d * d;
    });
    const float factor = 1 / sqrtf(squares / float(channels) + epsilon);
    team.each(channels, [&](int64_t c) { to[c] = (value(c) - mean) * factor * weight[c] + bias[c]; });
    team.each(1, [&](int64_t) { factors[2 * r] = mean, factors[2 * r + 1] = factor; });
  }
};

struct LayerNormBackward {
  const float *x, *second, *dy, *weight, *factors;
  float *dx, *dsecond;  // either may be null
  int64_t channels;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const float *a = x + r * channels, *b = second ? second + r * channels : nullptr;
    if (b) differentiate(team, r, [=](int64_t c) { return a[c] + b[c]; });
    else differentiate(team, r, [=](int64_t c) { return a[c]; });
  }
  template <class Team, class Value>
  HD void differentiate(Team team, int64_t r, Value value) const {
    const float* g = dy + r * channels;
    const float mean = factors[2 * r], factor = factors[2 * r + 1];
    const float g_mean = team.sum(channels, [&](int64_t c) { return g[c] * weight[c]; }) / float(channels);
    const float gh_mean = team.sum(channels, [&](int64_t c) { return g[c] * weight[c] * ((value(c) - mean) * factor); }) / float(channels);
    const auto slope = [&](int64_t c) { return factor * (g[c] * weight[c] - g_mean - (value(c) - mean) * factor * gh_mean); };
    float* first = dx ? dx + r * channels : dsecond + r * channels;
    team.each(channels, [&](int64_t c) { first[c] = slope(c); });
    if (!dx || !dsecond) return;
    float* other = dsecond + r * channels;
    team.each(channels, [&](int64_t c) { other[c] = first[c]; });
  }
};

// sums[chunk, 0, c] = the sum of dy * h over a chunk's rows, sums[chunk, 1, c] that of dy.
struct ChunkSums {
  const float *x, *second, *dy, *factors;
  float* sums;
  int64_t sample_rows, sample_chunks, channels;
  template <class Team>
  HD void operator()(Team team, int64_t chunk) const {
    const int64_t first = chunk / sample_chunks * sample_rows + chunk % sample_chunks * chunk_rows;
    const int64_t left = sample_rows - chunk % sample_chunks * chunk_rows, rows = left < chunk_rows ? left : chunk_rows;
    float *dweight = sums + chunk * 2 * channels, *dbias = dweight + channels;
    team.each(channels, [&](int64_t c) { dweight[c] = dbias[c] = 0; });
    for (int64_t r = first; r < first + rows; ++r) {
      const float *a = x + r * channels, *g = dy + r * channels;
      const float mean = factors[2 * r], factor = factors[2 * r + 1];
      if (second) {
        const float* b = second + r * channels;
        team.each(channels, [&](int64_t c) { dweight[c] += g[c] * ((a[c] + b[c] - mean) * factor), dbias[c] += g[c]; });
      } else {
        team.each(channels, [&](int64_t c) { dweight[c] += g[c] * ((a[c] - mean) * factor), dbias[c] += g[c]; });
      }
    }
  }
};

struct AddChunkSums {
  const float* sums;
  float *dweight, *dbias;
  int64_t chunks, channels;
  HD void operator()(int64_t row, int64_t c) const {  // row 0: the weight, 1: the bias
    float sum = 0;
    for (int64_t k = 0; k < chunks; ++k) sum += sums[(2 * k + row) * channels + c];
    (row == 0 ? dweight : dbias)[c] += sum;
  }
};

class LayerNorm : public Layer {
 public:
  LayerNorm(std::string name, LayerNormOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "layer_norm"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const size_t inputs = options_.add ? 2 : 1;
    const bool fits = x.size() == inputs && x[0].shape.c == options_.channels && (inputs == 1 || x[0].shape == x[1].shape);
    if (!fits) refuse(*this, x, std::to_string(inputs) + " of " + std::to_string(options_.channels) + " channels");
    return x[0];
  }
  std::vector<ParameterSpec> parameters() const override {
    return {{"weight", {options_.channels}, {Initial::constant, 1}}, {"bias", {options_.channels}, {Initial::constant, 0}}};
  }
  // Saved: two factors per row. Workspace: two sums per chunk and channel.
  Needs prepare(Device, std::span<const TensorSpec> x) override {
    return {.input = true, .saved = 2 * x[0].shape.rows(), .workspace = 2 * chunks(x[0].shape) * options_.channels};
  }

  void forward(const Pass& p) override {
    rows(p.device, p.y.shape.rows(),
         LayerNormForward{p.x[0].as<float>(), second(p), p.weight[0], p.weight[1], p.y.as<float>(), p.saved, options_.channels,
                          options_.epsilon});
  }
  void backward(const Pass& p) override {
    const Shape& s = p.dy.shape;
    const int64_t c = options_.channels, per_sample = s.h * s.w;
    float *dx = static_cast<float*>(p.dx[0].data), *dsecond = options_.add ? static_cast<float*>(p.dx[1].data) : nullptr;
    rows(p.device, chunks(s),
         ChunkSums{p.x[0].as<float>(), second(p), p.dy.as<float>(), p.saved, p.workspace, per_sample,
                   (per_sample + chunk_rows - 1) / chunk_rows, c});
    map(p.device, 2, c, AddChunkSums{p.workspace, p.dweight[0], p.dweight[1], chunks(s), c});
    if (dx || dsecond)
      rows(p.device, s.rows(), LayerNormBackward{p.x[0].as<float>(), second(p), p.dy.as<float>(), p.weight[0], p.saved, dx, dsecond, c});
  }

 private:
  const float* second(const Pass& p) const { return options_.add ? p.x[1].as<float>() : nullptr; }
  static int64_t chunks(const Shape& s) { return s.n * ((s.h * s.w + chunk_rows - 1) / chunk_rows); }

  LayerNormOptions options_;
};

}  // namespace

std::unique_ptr<Layer> layer_norm(std::string name, LayerNormOptions options) {
  require(options.channels >= 1 && options.epsilon > 0, "layer_norm", name,
          "it has " + std::to_string(options.channels) + " channels and epsilon " + std::to_string(options.epsilon) +
              "; give at least one channel and an epsilon above 0");
  return std::make_unique<LayerNorm>(std::move(name), options);
}

}  // namespace pipecast
