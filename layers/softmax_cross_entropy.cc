// Per row, with p = softmax(logits) and q = (1 - smoothing) * onehot(target) + smoothing / classes:
//   loss = -sum q * log p = log sum exp(logits) - sum q * logits;    dlogits = scale * (p - q)
// All of it relative to the row's largest logit, which keeps it exact for logits of any size.
#include "layers/softmax_cross_entropy.h"

#include "engine/math.h"

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
  float smoothing, scale;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const T* z = logits + r * classes;
    T* dz = dlogits + r * classes;
    const int64_t t = target[r];
    const float largest = team.max(classes, [&](int64_t c) { return float(z[c]); });
    const float sum = team.sum(classes, [&](int64_t c) { return exp_(z[c] - largest); });
    const float elsewhere = smoothing / float(classes), here = elsewhere + 1 - smoothing;
    team.each(classes, [&](int64_t c) { dz[c] = scale * (exp_(z[c] - largest) / sum - (c == t ? here : elsewhere)); });
  }
};

struct Totals {
  const float *row_loss, *row_hit;
  float* totals;
  HD Sums<2> operator()(int64_t r, int64_t) const { return {{row_loss[r], row_hit[r]}}; }
  HD void done(int64_t, Sums<2> sums) const { totals[0] += sums.v[0], totals[1] += sums.v[1]; }
};

}  // namespace

void softmax_cross_entropy_forward(Device d, const Tensor& logits, const int32_t* target, float smoothing, float* row_loss, float* row_hit,
                                   float* totals) {
  const int64_t rows = logits.shape.n, classes = logits.shape.c;
  with_element(logits.storage, [&](auto element) {
    using T = decltype(element);
    pipecast::rows(d, rows, SoftmaxCrossEntropyForward<T>{logits.as<T>(), target, row_loss, row_hit, classes, smoothing});
  });
  columns<2>(d, rows, 1, Totals{row_loss, row_hit, totals});
}

void softmax_cross_entropy_backward(Device d, const Tensor& logits, const int32_t* target, float smoothing, float scale,
                                    const Tensor& dlogits) {
  with_element(logits.storage, [&](auto element) {
    using T = decltype(element);
    rows(d, logits.shape.n, SoftmaxCrossEntropyBackward<T>{logits.as<T>(), target, dlogits.as<T>(), logits.shape.c, smoothing, scale});
  });
}

}  // namespace pipecast
