// Per row, with p = softmax(logits) and q = (1 - smoothing) * onehot(target) + smoothing / classes:
//   loss = -sum q * log p = log sum exp(logits) - sum q * logits;    dlogits = scale * (p - q)
// All of it relative to the row's largest logit, which keeps it exact for logits of any size.
#include "engine/math.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

template <class T>
struct SoftmaxCrossEntropyForward {
  const T* logits;  // rows x classes
  const int32_t* target;
  float *row_loss, *row_hit;
  int64_t classes;
  float smoothing;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const T* z = logits + r * classes;
    const int64_t t = target[r];
    const float largest = team.max(classes, [&](int64_t c) { return float(z[c]); });
    const float sum = team.sum(classes, [&](int64_t c) { return exp_(z[c] - largest); });
    const float shifted = team.sum(classes, [&](int64_t c) { return z[c] - largest; });
    // Written so that a NaN counts as beating the target.
    const float beating = team.sum(classes, [&](int64_t c) { return (c < t ? z[c] < z[t] : z[c] <= z[t]) ? 0.f : 1.f; });
    team.each(1, [&](int64_t) {
      row_loss[r] = logf(sum) - (1 - smoothing) * (z[t] - largest) - smoothing / float(classes) * shifted;
      row_hit[r] = beating == 0 ? 1 : 0;
    });
  }
};

template <class T>
struct SoftmaxCrossEntropyBackward {
  const T* logits;  // rows x classes
  const int32_t* target;
  T* dlogits;
  int64_t classes;
  float smoothing;
  const float* scale_at;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const T* z = logits + r * classes;
    T* dz = dlogits + r * classes;
    const int64_t t = target[r];
    const float largest = team.max(classes, [&](int64_t c) { return float(z[c]); });
    const float sum = team.sum(classes, [&](int64_t c) { return exp_(z[c] - largest); });
    const float elsewhere = smoothing / float(classes), here = elsewhere + 1 - smoothing, scale = *scale_at;
    team.each(classes, [&](int64_t c) { dz[c] = scale * (exp_(z[c] - largest) / sum - (c == t ? here : elsewhere)); });
  }
};

struct Totals {
  const float *row_loss, *row_hit;
  float* totals;
  HD Sums<2> operator()(int64_t r, int64_t) const { return {{row_loss[r], row_hit[r]}}; }
  HD void done(int64_t, Sums<2> sums) const { totals[0] += sums.v[0], totals[1] += sums.v[1]; }
};

class SoftmaxCrossEntropy : public Layer {
 public:
  SoftmaxCrossEntropy(std::string name, SoftmaxCrossEntropyOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "softmax_cross_entropy"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const bool two = x.size() == 2 && x[0].differentiable && x[1].storage == Storage::int32;
    Shape row = two ? x[0].shape : Shape{};
    row.c = 1;
    if (!two || x[1].shape != row) refuse(*this, x, "the logits, and an int32 label for each of their rows");
    return {row, Storage::fp32, false};
  }
  // Workspace: whether each row is a hit.
  Needs prepare(Device, std::span<const TensorSpec> x) override { return {.input = true, .bf16 = true, .workspace = x[0].shape.rows()}; }
  std::vector<std::string> means() const override { return {"loss", "accuracy"}; }
  void count(std::span<const Tensor> x, double* counts) const override { counts[0] = counts[1] = double(x[0].shape.rows()); }

  void forward(const Pass& p) override {
    const int64_t rows = p.y.shape.rows(), classes = p.x[0].shape.c;
    float *row_loss = p.y.as<float>(), *row_hit = p.workspace;
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      pipecast::rows(p.device, rows,
                     SoftmaxCrossEntropyForward<T>{p.x[0].as<T>(), p.x[1].as<int32_t>(), row_loss, row_hit, classes,
                                                   p.training ? options_.label_smoothing : 0});
    });
    if (!p.replay) columns<2>(p.device, rows, 1, Totals{row_loss, row_hit, p.sums});
  }
  void backward(const Pass& p) override {
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      rows(p.device, p.y.shape.rows(),
           SoftmaxCrossEntropyBackward<T>{p.x[0].as<T>(), p.x[1].as<int32_t>(), p.dx[0].as<T>(), p.x[0].shape.c, options_.label_smoothing,
                                          p.scale});
    });
  }

 private:
  SoftmaxCrossEntropyOptions options_;
};

}  // namespace

std::unique_ptr<Layer> softmax_cross_entropy(std::string name, SoftmaxCrossEntropyOptions options) {
  require(options.label_smoothing >= 0 && options.label_smoothing < 1, "softmax_cross_entropy", name,
          "label smoothing is " + std::to_string(options.label_smoothing) + "; give a share in [0, 1)");
  return std::make_unique<SoftmaxCrossEntropy>(std::move(name), options);
}

}  // namespace pipecast
