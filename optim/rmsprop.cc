// RMSprop (Tieleman and Hinton 2012) as torch.optim.RMSprop has it, not centered: alpha a, momentum u, L2 weight decay c,
// learning rate r:
//
//   g' = g + c w
//   v  = a v + (1 - a) g'^2
//   q  = g' / (sqrt(v) + epsilon)
//   m  = u m + q                (without momentum: m = q, and it is not kept)
//   w -= r m
//
// Spike compensation of a gradient that comes n updates late, as that of SGD (sgd.cc) with q for the gradient:
// w -= r (u^n m + (1 - u^n) / (1 - u) q). Without momentum that is the update above.
//
// Look-ahead, with s = the number of updates ahead and g the last gradient, before decay:
//
//   paper     w - s r m
//   released  w - s r g / (sqrt(v) + epsilon), whatever the momentum
//   exact     w - (r_1 + ... + r_s) m
//   decayed   s updates with g = 0 and v held: m' = u m' + c w' / (sqrt(v) + epsilon);  w' -= r_j m'
//
// Without momentum, g / (sqrt(v) + epsilon) takes the place of m, except in decayed: zero gradients then leave the decay alone.
// Wherever g is read, here as in the update, it is multiplied by the gradient scale first.
#include <cmath>
#include <type_traits>

#include "engine/math.h"
#include "optim/optimizer.h"

namespace pipecast {
namespace {

struct RmsPropNoLookAhead {};

struct RmsPropAlongMean {
  float distance;
  HD float operator()(float w, float, float m, float) const { return fma_(-distance, m, w); }
};

struct RmsPropAlongGradient {
  float distance, epsilon;
  HD float operator()(float w, float v, float, float g) const { return fma_(-distance, g / (sqrtf(v) + epsilon), w); }
};

struct RmsPropDecayed {
  float momentum, decay, epsilon;
  int updates;
  float rate[max_look_ahead];

  HD float operator()(float w, float v, float m, float) const {
    float decay_of_weight = decay / (sqrtf(v) + epsilon);
    int j = 0;
    do {  // at least one update: a loop that may be empty would keep GCC from vectorizing over the elements
      m = fma_(momentum, m, decay_of_weight * w);
      w = fma_(-rate[j], m, w);
    } while (++j < updates);
    return w;
  }
};

template <bool Momentum, class LookAheadRule>
struct RmsPropStep {
  float *w, *v, *m, *predicted;
  const float* g;
  float scale, rate, decay, alpha, rest, epsilon, momentum;  // scale: of the gradient; rest: 1 - alpha
  float along_mean, along_fresh;                             // u^n, (1 - u^n) / (1 - u)
  LookAheadRule look_ahead;

  HD void operator()(int64_t i) const {
    float last = scale * g[i], gradient = fma_(decay, w[i], last);
    float square = fma_(alpha, v[i], rest * gradient * gradient);
    float fresh = gradient / (sqrtf(square) + epsilon), mean = fresh, direction = fresh;
    if constexpr (Momentum) {
      mean = fma_(momentum, m[i], fresh);
      direction = fma_(along_mean, mean, along_fresh * fresh);
      m[i] = mean;
    }
    float weight = fma_(-rate, direction, w[i]);
    v[i] = square, w[i] = weight;
    if constexpr (!std::is_same_v<LookAheadRule, RmsPropNoLookAhead>) predicted[i] = look_ahead(weight, square, mean, last);
  }
};

template <bool Momentum, class LookAheadRule>
struct RmsPropPredict {
  const float *w, *v, *m, *g;
  float* predicted;
  float scale;
  LookAheadRule look_ahead;

  HD void operator()(int64_t i) const { predicted[i] = look_ahead(w[i], v[i], Momentum ? m[i] : 0, scale * g[i]); }
};

class RmsProp : public Optimizer {
 public:
  explicit RmsProp(const OptimizerOptions& options) : o_(options) {}

  int states() const override { return o_.momentum > 0 ? 2 : 1; }
  bool compensates() const override { return true; }
  bool looks_at_gradient(LookAheadMode mode) const override {
    return mode == LookAheadMode::released || (o_.momentum == 0 && mode != LookAheadMode::decayed);
  }

  void predict(Device d, const Buffers& b, int64_t t, const LookAhead& ahead) const override {
    if (o_.momentum > 0) predict<true>(d, b, t, ahead);
    else predict<false>(d, b, t, ahead);
  }

 private:
  void update(Device d, const Buffers& b, const Update& u, const LookAhead& ahead) const override {
    if (o_.momentum > 0) update<true>(d, b, u, ahead);
    else update<false>(d, b, u, ahead);
  }

  template <bool Momentum>
  void update(Device d, const Buffers& b, const Update& u, const LookAhead& ahead) const {
    const double momentum = o_.momentum, kept = std::pow(momentum, u.late);
    auto run = [&](auto look_ahead) {
      map(d, b.n,
          RmsPropStep<Momentum, decltype(look_ahead)>{b.w, b.state[0], b.state[1], b.predicted, b.g, u.gradient_scale, u.rate,
                                                      u.decay * o_.weight_decay, o_.alpha, 1 - o_.alpha, o_.epsilon, o_.momentum,
                                                      float(kept), float((1 - kept) / (1 - momentum)), look_ahead});
    };
    if (b.predicted) with_look_ahead(u.t, ahead, run);
    else run(RmsPropNoLookAhead{});
  }

  template <bool Momentum>
  void predict(Device d, const Buffers& b, int64_t t, const LookAhead& ahead) const {
    with_look_ahead(t, ahead, [&](auto look_ahead) {
      map(d, b.n,
          RmsPropPredict<Momentum, decltype(look_ahead)>{b.w, b.state[0], b.state[1], b.g, b.predicted, ahead.gradient_scale, look_ahead});
    });
  }

  // run(rule) with the rule of the look-ahead after t updates.
  template <class Run>
  void with_look_ahead(int64_t t, const LookAhead& ahead, const Run& run) const {
    if (t == 0 || ahead.rates.empty()) return run(RmsPropAlongMean{0});
    if (ahead.mode != LookAheadMode::decayed) {
      if (ahead.mode == LookAheadMode::released || o_.momentum == 0) return run(RmsPropAlongGradient{float(ahead.distance()), o_.epsilon});
      return run(RmsPropAlongMean{float(ahead.distance())});
    }
    ahead.check_reach("RMSprop");
    RmsPropDecayed rule{o_.momentum, ahead.decay * o_.weight_decay, o_.epsilon, int(ahead.rates.size()), {}};
    std::copy(ahead.rates.begin(), ahead.rates.end(), rule.rate);
    run(rule);
  }

  OptimizerOptions o_;
};

}  // namespace

std::unique_ptr<Optimizer> make_rmsprop(const OptimizerOptions& options) { return std::make_unique<RmsProp>(options); }

}  // namespace pipecast
