// y[n, t] = x[n, t] + W[first + t], in three forms:
//   learned      W is trained: dW[first + t] += the sum over n of dy[n, t]
//   constant     W has one row, which every position has: dW += the sum over n and t of dy[n, t]
//   sinusoidal   W[t, 2i] = sin(t / 10000^(2i / features)), W[t, 2i + 1] = cos of the same (Vaswani et al. 2017, section 3.5)
// dx = dy. Sums are over the positions in order, and the samples in order: where dy is 0 behind a sample's length, as every layer of text
// leaves it, more of such positions change no bit.
#include "engine/launch.h"
#include "engine/memory.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct AddPosition {
  const float *x, *weight;  // the weight from the first position's row on
  float* y;
  int64_t positions, features;
  int64_t row;  // from a position's row to the next one's: `features`, or 0
  HD void operator()(int64_t r, int64_t c) const { y[r * features + c] = x[r * features + c] + weight[r % positions * row + c]; }
};

struct LearnedBackward {
  const float* dy;
  float* dweight;
  int64_t samples, positions, features;
  HD void operator()(int64_t t, int64_t c) const {
    float sum = 0;
    for (int64_t n = 0; n < samples; ++n) sum += dy[(n * positions + t) * features + c];
    dweight[t * features + c] += sum;
  }
};

// The sum over a sample's positions.
struct SampleSum {
  const float* dy;
  float* sums;  // samples x features
  int64_t positions, features;
  HD void operator()(int64_t n, int64_t c) const {
    float sum = 0;
    for (int64_t t = 0; t < positions; ++t) sum += dy[(n * positions + t) * features + c];
    sums[n * features + c] = sum;
  }
};

class Positions : public Layer {
 public:
  Positions(std::string name, PositionOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "positions"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const bool one = x.size() == 1 && x[0].differentiable && x[0].shape.w == 1 && x[0].shape.c == options_.features;
    if (!one) refuse(*this, x, "a sequence (n, length, 1, " + std::to_string(options_.features) + ")");
    const int64_t most = options_.most - options_.first;
    if (options_.form != PositionForm::constant && x[0].shape.h > most)
      throw UsageError("positions '" + name() + "' got a sequence of " + std::to_string(x[0].shape.h) + " positions and has " +
                       std::to_string(most) + ": shorten the sequences, or make the model for longer ones");
    return x[0];
  }
  std::vector<ParameterSpec> parameters() const override {
    if (options_.form == PositionForm::sinusoidal) return {};
    return {{"weight", {options_.form == PositionForm::constant ? 1 : options_.most, options_.features}, options_.initial}};
  }
  Needs prepare(Device d, std::span<const TensorSpec> x) override {
    if (options_.form == PositionForm::sinusoidal && table_.size() == 0) make_table(d);
    return {.workspace = options_.form == PositionForm::constant ? x[0].shape.n * x[0].shape.c : 0};
  }

  void forward(const Pass& p) override {
    const Shape& s = p.x[0].shape;
    const bool constant = options_.form == PositionForm::constant;
    const float* weight = options_.form == PositionForm::sinusoidal ? table_.data() : p.weight[0];
    if (!constant) weight += options_.first * s.c;
    map(p.device, s.n * s.h, s.c, AddPosition{p.x[0].as<float>(), weight, p.y.as<float>(), s.h, s.c, constant ? 0 : s.c});
  }
  void backward(const Pass& p) override {
    const Shape& s = p.dy.shape;
    const float* dy = p.dy.as<float>();
    if (options_.form == PositionForm::learned) {
      map(p.device, s.h, s.c, LearnedBackward{dy, p.dweight[0] + options_.first * s.c, s.n, s.h, s.c});
    } else if (options_.form == PositionForm::constant) {
      map(p.device, s.n, s.c, SampleSum{dy, p.workspace, s.h, s.c});
      map(p.device, 1, s.c, LearnedBackward{p.workspace, p.dweight[0], s.n, 1, s.c});
    }
    if (p.dx[0].data) copy(p.device, p.dx[0].data, dy, p.dy.bytes());
  }

 private:
  void make_table(Device d) {
    std::vector<float> table(size_t(options_.most * options_.features));
    for (int64_t t = 0; t < options_.most; ++t)
      for (int64_t c = 0; c < options_.features; ++c) {
        const double angle = double(t) / std::pow(10000., double(c / 2 * 2) / double(options_.features));
        table[size_t(t * options_.features + c)] = float(c % 2 == 0 ? std::sin(angle) : std::cos(angle));
      }
    table_ = Memory(d, int64_t(table.size()));
    copy(d, table_.data(), table.data(), table.size() * sizeof(float));
    synchronize(d);
  }

  PositionOptions options_;
  Memory table_;  // most x features, sinusoidal only
};

}  // namespace

std::unique_ptr<Layer> positions(std::string name, PositionOptions o) {
  require(o.features >= 1 && o.first >= 0 && (o.form == PositionForm::constant || o.most > o.first), "positions", name,
          "it has rows " + std::to_string(o.first) + " to " + std::to_string(o.most - 1) + " of " + std::to_string(o.features) +
              " features; give at least one of each");
  return std::make_unique<Positions>(std::move(name), o);
}

}  // namespace pipecast
