// Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019): one update, weight decay c coupled or decoupled.
// With betas b1, b2, learning rate r, at update number t:
//
//   adam   g' = g + c w                          adamw   g' = g,  w *= 1 - r c
//   m  = b1 m + (1 - b1) g'
//   v  = b2 v + (1 - b2) g'^2
//   w -= r / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + epsilon)
//
// Look-ahead after t updates along d = m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + epsilon), s updates ahead:
//
//   paper     w - s r d
//   released  the same, epsilon being 1e-8 whatever the optimizer's
//   exact     w - (r_1 + ... + r_s) d
//   decayed   s updates with g = 0 in m and v held: each with its own bias corrections, rate and decay
#include <cmath>
#include <numeric>
#include <type_traits>

#include "engine/math.h"
#include "optim/optimizer.h"

namespace pipecast {
namespace {

// m / (sqrt(v) * root + epsilon) with root = 1 / sqrt(1 - b2^t)
HD float direction(float m, float deviation, float root, float epsilon) { return m / fma_(deviation, root, epsilon); }

struct AdamNoLookAhead {};

struct AdamLine {
  float rate, root, epsilon;  // rate: the sum of the learning rates, over 1 - b1^t
  HD float operator()(float w, float m, float v) const { return fma_(-rate, direction(m, sqrtf(v), root, epsilon), w); }
};

struct AdamDecayed {
  float beta1, coupled, epsilon;  // coupled: (1 - b1) c for adam, 0 for adamw
  int updates;
  struct {
    float keep, rate, root;  // keep: 1 for adam, 1 - r c for adamw
  } update[max_look_ahead];

  HD float operator()(float w, float m, float v) const {
    float deviation = sqrtf(v);
    int j = 0;
    do {  // at least one update: a loop that may be empty would keep GCC from vectorizing over the elements
      m = fma_(beta1, m, coupled * w);
      w = fma_(-update[j].rate, direction(m, deviation, update[j].root, epsilon), update[j].keep * w);
    } while (++j < updates);
    return w;
  }
};

template <class LookAheadRule>
struct AdamStep {
  float *w, *m, *v, *predicted;
  const float* g;
  float keep, decay;  // adam: 1, c; adamw: 1 - r c, 0
  float beta1, rest1, beta2, rest2, rate, root, epsilon;
  LookAheadRule look_ahead;

  HD void operator()(int64_t i) const {
    float gradient = fma_(decay, w[i], g[i]);
    float mean = fma_(beta1, m[i], rest1 * gradient);
    float square = fma_(beta2, v[i], rest2 * gradient * gradient);
    float weight = fma_(-rate, direction(mean, sqrtf(square), root, epsilon), keep * w[i]);
    m[i] = mean, v[i] = square, w[i] = weight;
    if constexpr (!std::is_same_v<LookAheadRule, AdamNoLookAhead>) predicted[i] = look_ahead(weight, mean, square);
  }
};

template <class LookAheadRule>
struct AdamPredict {
  const float *w, *m, *v;
  float* predicted;
  LookAheadRule look_ahead;

  HD void operator()(int64_t i) const { predicted[i] = look_ahead(w[i], m[i], v[i]); }
};

class Adam : public Optimizer {
 public:
  Adam(const OptimizerOptions& options, bool decoupled) : o_(options), decoupled_(decoupled) {}

  int states() const override { return 2; }

  void step(Device d, const Buffers& b, int64_t t, float rate, const LookAhead& ahead) const override {
    auto run = [&](auto look_ahead) {
      map(d, b.n,
          AdamStep<decltype(look_ahead)>{b.w, b.state[0], b.state[1], b.predicted, b.g, keep(rate), decoupled_ ? 0 : o_.weight_decay,
                                         o_.beta1, 1 - o_.beta1, o_.beta2, 1 - o_.beta2, corrected(rate, t), root(t), o_.epsilon,
                                         look_ahead});
    };
    if (b.predicted) with_look_ahead(t, ahead, run);
    else run(AdamNoLookAhead{});
  }

  void predict(Device d, const Buffers& b, int64_t t, const LookAhead& ahead) const override {
    with_look_ahead(t, ahead, [&](auto look_ahead) {
      map(d, b.n, AdamPredict<decltype(look_ahead)>{b.w, b.state[0], b.state[1], b.predicted, look_ahead});
    });
  }

 private:
  float keep(double rate) const { return decoupled_ ? float(1 - rate * o_.weight_decay) : 1; }
  float corrected(double rate, int64_t t) const { return float(rate / (1 - std::pow(double(o_.beta1), double(t)))); }
  float root(int64_t t) const { return float(1 / std::sqrt(1 - std::pow(double(o_.beta2), double(t)))); }

  // run(rule) with the rule of the look-ahead after t updates.
  template <class Run>
  void with_look_ahead(int64_t t, const LookAhead& ahead, const Run& run) const {
    if (t == 0 || ahead.rates.empty()) return run(AdamLine{0, 1, 1});
    const double first = double(ahead.rates.size()) * ahead.rates[0];
    switch (ahead.mode) {
      case LookAheadMode::paper: return run(AdamLine{corrected(first, t), root(t), o_.epsilon});
      case LookAheadMode::released: return run(AdamLine{corrected(first, t), root(t), 1e-8f});
      case LookAheadMode::exact:
        return run(AdamLine{corrected(std::accumulate(ahead.rates.begin(), ahead.rates.end(), 0.0), t), root(t), o_.epsilon});
      case LookAheadMode::decayed: break;
    }
    if (ahead.rates.size() > size_t(max_look_ahead))
      throw UsageError("look-ahead 'decayed' with Adam reaches " + std::to_string(max_look_ahead) + " updates, not " +
                       std::to_string(ahead.rates.size()) + ": use fewer stages or another look-ahead");
    AdamDecayed rule{o_.beta1, decoupled_ ? 0 : float((1 - double(o_.beta1)) * o_.weight_decay), o_.epsilon, int(ahead.rates.size()), {}};
    for (int j = 0; j < rule.updates; ++j) {
      float rate = ahead.rates[j];
      rule.update[j] = {keep(rate), corrected(rate, t + 1 + j), root(t + 1 + j)};
    }
    run(rule);
  }

  OptimizerOptions o_;
  bool decoupled_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adam(const OptimizerOptions& options) { return std::make_unique<Adam>(options, false); }
std::unique_ptr<Optimizer> make_adamw(const OptimizerOptions& options) { return std::make_unique<Adam>(options, true); }

}  // namespace pipecast
