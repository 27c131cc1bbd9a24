// Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) and NAdam (Dozat 2016): one update, weight decay c coupled or
// decoupled. With betas b1, b2, learning rate r, at update number t:
//
//   adam   g' = g + c w                          adamw, nadam   g' = g,  w *= 1 - r c
//   m  = b1 m + (1 - b1) g'
//   v  = b2 v + (1 - b2) g'^2
//   w -= r x / (sqrt(v) / sqrt(1 - b2^t) + epsilon)
//
//   adam, adamw  x = m / (1 - b1^t)
//   nadam        x = mu_(t+1) m / (1 - P_(t+1)) + (1 - mu_t) g' / (1 - P_t),  P_t = mu_1 ... mu_t
//                mu_t = b1 (1 - 0.96^(t psi) / 2),  psi the momentum decay; formula as in torch.optim.NAdam
//
// Spike compensation of a gradient that comes n updates late, the analogue of that of SGD (sgd.cc), for adam and adamw:
// b1^n m + (1 - b1^n) g' in place of m. The state is as without it. NAdam has its own weighting of the fresh gradient.
//
// Look-ahead after t updates along d = m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + epsilon), s updates ahead:
//
//   paper     w - s r d
//   released  the same, epsilon being 1e-8 whatever the optimizer's (nadam, of which there is no released code: as paper)
//   exact     w - (r_1 + ... + r_s) d
//   decayed   s updates with g = 0 in m and v held: each with its own bias corrections, rate and decay
//
// NAdam takes the same d: its x mixes m with gradients that have not come, whose best guess is m / (1 - b1^t), and the two
// weights of x add up to about 1. In decayed x is what zero gradients leave, mu_(t+1) m / (1 - P_(t+1)).
#include <cmath>
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
  float scale;        // of the gradient
  float keep, decay;  // adam: 1, c; adamw: 1 - r c, 0
  float beta1, rest1, beta2, rest2, rate, root, epsilon;
  float along_mean, along_gradient;  // rate times these make x; adam in time: 1, 0
  LookAheadRule look_ahead;

  HD void operator()(int64_t i) const {
    float gradient = fma_(decay, w[i], scale * g[i]);
    float mean = fma_(beta1, m[i], rest1 * gradient);
    float square = fma_(beta2, v[i], rest2 * gradient * gradient);
    float toward = fma_(along_mean, mean, along_gradient * gradient);
    float weight = fma_(-rate, direction(toward, sqrtf(square), root, epsilon), keep * w[i]);
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
  enum Kind { adam, adamw, nadam };
  Adam(const OptimizerOptions& options, Kind kind) : o_(options), kind_(kind) {}

  int states() const override { return 2; }
  bool compensates() const override { return kind_ != nadam; }

  void predict(Device d, const Buffers& b, int64_t t, const LookAhead& ahead) const override {
    with_look_ahead(t, ahead, [&](auto look_ahead) {
      map(d, b.n, AdamPredict<decltype(look_ahead)>{b.w, b.state[0], b.state[1], b.predicted, look_ahead});
    });
  }

 private:
  void update(Device d, const Buffers& b, const Update& u, const LookAhead& ahead) const override {
    const double kept = std::pow(double(o_.beta1), u.late);
    float rate = corrected(u.rate, u.t), along_mean = float(kept), along_gradient = float(1 - kept);
    if (kind_ == nadam) rate = u.rate, along_mean = float(nadam_mean(u.t)), along_gradient = float((1 - mu(u.t)) / (1 - mu_product(u.t)));
    auto run = [&](auto look_ahead) {
      map(d, b.n,
          AdamStep<decltype(look_ahead)>{b.w, b.state[0], b.state[1], b.predicted, b.g, u.gradient_scale, keep(u.rate, u.decay),
                                         kind_ == adam ? u.decay * o_.weight_decay : 0, o_.beta1, 1 - o_.beta1, o_.beta2, 1 - o_.beta2,
                                         rate, root(u.t), o_.epsilon, along_mean, along_gradient, look_ahead});
    };
    if (b.predicted) with_look_ahead(u.t, ahead, run);
    else run(AdamNoLookAhead{});
  }

  float keep(double rate, float decay) const { return kind_ == adam ? 1 : float(1 - rate * (decay * o_.weight_decay)); }
  float corrected(double rate, int64_t t) const { return float(rate / (1 - std::pow(double(o_.beta1), double(t)))); }
  float root(int64_t t) const { return float(1 / std::sqrt(1 - std::pow(double(o_.beta2), double(t)))); }

  // NAdam's mu_t, P_t, and the weight of m in x.
  double mu(int64_t t) const { return double(o_.beta1) * (1 - 0.5 * std::pow(0.96, double(t) * double(o_.momentum_decay))); }
  double mu_product(int64_t t) const {
    double product = 1;
    for (int64_t i = 1; i <= t && product > 1e-17; ++i) product *= mu(i);  // what is smaller is lost in 1 - P
    return product;
  }
  double nadam_mean(int64_t t) const { return mu(t + 1) / (1 - mu_product(t + 1)); }

  // run(rule) with the rule of the look-ahead after t updates.
  template <class Run>
  void with_look_ahead(int64_t t, const LookAhead& ahead, const Run& run) const {
    if (t == 0 || ahead.rates.empty()) return run(AdamLine{0, 1, 1});
    if (ahead.mode != LookAheadMode::decayed) {
      const bool released = ahead.mode == LookAheadMode::released && kind_ != nadam;
      return run(AdamLine{corrected(ahead.distance(), t), root(t), released ? 1e-8f : o_.epsilon});
    }
    ahead.check_reach("Adam");
    const float coupled = kind_ == adam ? float((1 - double(o_.beta1)) * (ahead.decay * o_.weight_decay)) : 0;
    AdamDecayed rule{o_.beta1, coupled, o_.epsilon, int(ahead.rates.size()), {}};
    for (int j = 0; j < rule.updates; ++j) {
      const float rate = ahead.rates[j];
      const int64_t number = t + 1 + j;
      rule.update[j] = {keep(rate, ahead.decay), kind_ == nadam ? float(rate * nadam_mean(number)) : corrected(rate, number), root(number)};
    }
    run(rule);
  }

  OptimizerOptions o_;
  Kind kind_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adam(const OptimizerOptions& options) { return std::make_unique<Adam>(options, Adam::adam); }
std::unique_ptr<Optimizer> make_adamw(const OptimizerOptions& options) { return std::make_unique<Adam>(options, Adam::adamw); }
std::unique_ptr<Optimizer> make_nadam(const OptimizerOptions& options) { return std::make_unique<Adam>(options, Adam::nadam); }

}  // namespace pipecast
