// Per row, with p = softmax(logits) and q = (1 - smoothing) * onehot(target) + smoothing / classes:
//   loss = -sum q * log p = log sum exp(logits) - sum q * logits;    dlogits = scale * (p - q)
// `scale` is 1 / the count of the loss in the mini-batch (Pass::scale). With class weights u, as in torch.nn.CrossEntropyLoss, q becomes
// u * q (element by element), Q = sum q, and
//   loss = Q log sum exp(logits) - sum q * logits;                   dlogits = scale * (Q p - q)
// and the mean divides by the sum of u[target] over the rows. With a second label and the share s of the first,
//   onehot(target) becomes s * onehot(target) + (1 - s) * onehot(second).
// A row with the ignored label has loss and gradient 0 and is left out of both
// means. The row's largest logit is subtracted first, so that exp does not overflow.
#include <algorithm>

#include "engine/math.h"
#include "engine/memory.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

template <class T>
struct SoftmaxCrossEntropyForward {
  const T* logits;  // rows x classes
  const int32_t *target, *second;
  const float* share;  // of target; null, as second, where there is one label
  float *row_loss, *row_correct;
  int64_t classes;
  float smoothing;
  int32_t ignored;
  const float* weights;  // one per class; null: all are 1
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const T* z = logits + r * classes;
    const int64_t first = target[r], other = second ? second[r] : first;
    const float s = second ? share[r] : 1;
    const int64_t t = s >= .5f ? first : other;  // the larger share
    if (first == ignored || other == ignored) {
      team.each(1, [&](int64_t) { row_loss[r] = 0, row_correct[r] = 0; });
      return;
    }
    const float largest = team.max(classes, [&](int64_t c) { return float(z[c]); });
    const float sum = team.sum(classes, [&](int64_t c) { return exp_(z[c] - largest); });
    const float elsewhere = smoothing / float(classes);
    if (weights) {
      const float shifted = team.sum(classes, [&](int64_t c) { return weights[c] * (z[c] - largest); }), here = (1 - smoothing) * weights[t];
      const float whole = here + elsewhere * team.sum(classes, [&](int64_t c) { return weights[c]; });
      team.each(1, [&](int64_t) { row_loss[r] = whole * logf(sum) - here * (z[t] - largest) - elsewhere * shifted; });
    } else {
      const float shifted = smoothing > 0 ? team.sum(classes, [&](int64_t c) { return z[c] - largest; }) : 0;
      const float own = second ? s * (z[first] - largest) + (1 - s) * (z[other] - largest) : z[t] - largest;
      team.each(1, [&](int64_t) { row_loss[r] = logf(sum) - (1 - smoothing) * own - elsewhere * shifted; });
    }
    // Classes that rank above the target; of equal logits the first one wins. Written so that any NaN makes the row wrong.
    const float beating = team.sum(classes, [&](int64_t c) { return (c < t ? z[c] < z[t] : z[c] <= z[t]) ? 0.f : 1.f; });
    team.each(1, [&](int64_t) { row_correct[r] = beating == 0 ? 1 : 0; });
  }
};

template <class T>
struct SoftmaxCrossEntropyBackward {
  const T* logits;  // rows x classes
  const int32_t *target, *second;
  const float* share;
  T* dlogits;
  int64_t classes;
  float smoothing;
  int32_t ignored;
  const float* weights;
  const float* scale_at;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const T* z = logits + r * classes;
    T* dz = dlogits + r * classes;
    const int64_t t = target[r], other = second ? second[r] : t;
    if (t == ignored || other == ignored) {
      team.each(classes, [&](int64_t c) { dz[c] = 0.f; });
      return;
    }
    const float largest = team.max(classes, [&](int64_t c) { return float(z[c]); });
    const float sum = team.sum(classes, [&](int64_t c) { return exp_(z[c] - largest); });
    const float elsewhere = smoothing / float(classes), here = elsewhere + 1 - smoothing, scale = *scale_at;
    if (second) {
      const float first = (1 - smoothing) * share[r], rest = (1 - smoothing) * (1 - share[r]);
      team.each(classes, [&](int64_t c) {
        dz[c] = scale * (exp_(z[c] - largest) / sum - elsewhere - (c == t ? first : 0) - (c == other ? rest : 0));
      });
      return;
    }
    if (!weights) {
      team.each(classes, [&](int64_t c) { dz[c] = scale * (exp_(z[c] - largest) / sum - (c == t ? here : elsewhere)); });
      return;
    }
    const float whole = (1 - smoothing) * weights[t] + elsewhere * team.sum(classes, [&](int64_t c) { return weights[c]; });
    team.each(classes, [&](int64_t c) {
      dz[c] = scale * (whole * exp_(z[c] - largest) / sum - weights[c] * (c == t ? here : elsewhere));
    });
  }
};

struct Totals {
  const float *row_loss, *row_correct;
  float* totals;
  HD Sums<2> operator()(int64_t r, int64_t) const { return {{row_loss[r], row_correct[r]}}; }
  HD void done(int64_t, Sums<2> sums) const { totals[0] += sums.v[0], totals[1] += sums.v[1]; }
};

class SoftmaxCrossEntropy : public Layer {
 public:
  SoftmaxCrossEntropy(std::string name, SoftmaxCrossEntropyOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "softmax_cross_entropy"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const bool mixed = x.size() == 4;
    Shape row = x.empty() ? Shape{} : x[0].shape;
    row.c = 1;
    const TensorSpec label{row, Storage::int32}, share{row, Storage::fp32, false};
    if (!(x.size() == 2 || mixed) || !x[0].differentiable || x[1] != label || (mixed && (x[2] != label || x[3] != share)))
      refuse(*this, x, "the logits, and an int32 label for each of their rows; of mixtures also a second label and the share of the first");
    if (mixed && !options_.class_weights.empty())
      throw UsageError("softmax_cross_entropy '" + name() +
                       "' has class weights, and they are not for mixtures of samples: leave out one of them");
    return {row, Storage::fp32, false};
  }
  // Workspace: per row 1 if the prediction is correct, else 0.
  Needs prepare(Device d, std::span<const TensorSpec> x) override {
    const std::vector<float>& weights = options_.class_weights;
    if (!weights.empty() && int64_t(weights.size()) != x[0].shape.c)
      throw UsageError("softmax_cross_entropy '" + name() + "' has " + std::to_string(weights.size()) + " class weights for " +
                       std::to_string(x[0].shape.c) + " classes: give one weight per class");
    if (d.gpu && !weights.empty() && on_gpu_.size() == 0) {
      on_gpu_ = Memory(d, int64_t(weights.size()));
      copy(d, on_gpu_.data(), weights.data(), weights.size() * sizeof(float));
      synchronize(d);
    }
    return {.input = true, .bf16 = true, .workspace = x[0].shape.rows()};
  }
  std::vector<std::string> means() const override { return {"loss", "accuracy"}; }
  // The loss is divided by the sum of the targets' class weights, the accuracy by the number of rows. Ignored rows count in neither.
  void count(std::span<const Tensor> x, double* counts) const override {
    counts[0] = counts[1] = 0;
    const int32_t *target = x[1].as<int32_t>(), *second = second_label(x);
    const auto counts_row = [&](int32_t label) {
      if (label == options_.ignored) return false;
      if (label >= 0 && label < x[0].shape.c) return true;
      throw UsageError("softmax_cross_entropy '" + name() + "' got the label " + std::to_string(label) + ": labels are 0 to " +
                       std::to_string(x[0].shape.c - 1) + ", or " + std::to_string(options_.ignored) + " for a row to ignore");
    };
    for (int64_t r = 0; r < x[1].shape.count(); ++r) {
      if (!counts_row(target[r]) || (second && !counts_row(second[r]))) continue;
      counts[0] += options_.class_weights.empty() ? 1 : double(options_.class_weights[size_t(target[r])]);
      ++counts[1];
    }
  }

  void forward(const Pass& p) override {
    const int64_t rows = p.y.shape.rows(), classes = p.x[0].shape.c;
    float *row_loss = p.y.as<float>(), *row_correct = p.workspace;
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      pipecast::rows(
          p.device, rows,
          SoftmaxCrossEntropyForward<T>{p.x[0].as<T>(), p.x[1].as<int32_t>(), second_label(p.x), share(p.x), row_loss, row_correct, classes,
                                        p.training ? options_.label_smoothing : 0, options_.ignored, weights(p.device)});
    });
    if (!p.replay) columns<2>(p.device, rows, 1, Totals{row_loss, row_correct, p.sums});
  }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      rows(p.device, p.y.shape.rows(),
           SoftmaxCrossEntropyBackward<T>{p.x[0].as<T>(), p.x[1].as<int32_t>(), second_label(p.x), share(p.x), p.dx[0].as<T>(),
                                          p.x[0].shape.c, options_.label_smoothing, options_.ignored, weights(p.device), p.scale});
    });
  }

 private:
  // Null where there is one label.
  static const int32_t* second_label(std::span<const Tensor> x) { return x.size() == 4 ? x[2].as<int32_t>() : nullptr; }
  static const float* share(std::span<const Tensor> x) { return x.size() == 4 ? x[3].as<float>() : nullptr; }
  const float* weights(Device d) const {
    if (options_.class_weights.empty()) return nullptr;
    return d.gpu ? on_gpu_.data() : options_.class_weights.data();
  }

  SoftmaxCrossEntropyOptions options_;
  Memory on_gpu_;  // copy of the class weights, on a GPU only
};

}  // namespace

std::unique_ptr<Layer> softmax_cross_entropy(std::string name, SoftmaxCrossEntropyOptions options) {
  require(options.label_smoothing >= 0 && options.label_smoothing < 1, "softmax_cross_entropy", name,
          "label smoothing is " + std::to_string(options.label_smoothing) + "; it must be in [0, 1)");
  const std::vector<float>& weights = options.class_weights;
  require(std::all_of(weights.begin(), weights.end(), [](float w) { return w >= 0 && w <= 1e6f; }), "softmax_cross_entropy", name,
          "each class weight must be a number from 0 to 1000000");
  return std::make_unique<SoftmaxCrossEntropy>(std::move(name), options);
}

}  // namespace pipecast
