// Stochastic gradient descent with momentum u and dampening d, L2 weight decay c, learning rate r:
//
//   g' = g + c w
//   v  = u v + (1 - d) g'       (first update: v = g'; without momentum: v = g', and no state is kept)
//   w -= r v                    (Nesterov: w -= r (g' + u v))
//
// Spike compensation (Kosson et al., MLSys 2021, arXiv 2003.11666) of a gradient that comes n updates late. Had it been in time,
// it would have moved w by (1 + u + ... + u^(n-1)) times its share in v meanwhile, and u^n of it would be left in v:
//
//   w -= r (u^n v + (1 - u^n) / (1 - u) (1 - d) g')
//
// Without momentum that is the update above. With Nesterov momentum, which looks ahead by itself, it is not defined.
//
// Every look-ahead is linear: W w + V v + G g, with s = the number of updates ahead and g the last gradient, before decay:
//
//   paper     w - s r v
//   released  w - s r (u v + (1 - d) g)
//   exact     w - (r_1 + ... + r_s) v
//   decayed   s updates with g = 0, folded on the host into the two numbers W and V
//
// Without momentum, g takes the place of v, except in decayed: zero gradients then leave nothing but the decay. Wherever g is
// read, here as in the update, it is multiplied by the gradient scale first.
#include <cmath>
#include <type_traits>

#include "engine/math.h"
#include "optim/optimizer.h"

namespace pipecast {
namespace {

struct SgdNoLookAhead {};

template <bool Gradient>  // whether g is read
struct SgdLookAhead {
  float weight = 1, velocity = 0, gradient = 0;
  HD float operator()(float w, float v, float g) const {
    float p = fma_(velocity, v, weight * w);
    if constexpr (Gradient) p = fma_(gradient, g, p);
    return p;
  }
};

template <bool Momentum, class LookAheadRule>
struct SgdStep {
  float *w, *v, *predicted;
  const float* g;
  float scale, rate, decay, momentum, fresh;  // scale: of the gradient; fresh: the share of the new gradient
  float along_gradient, along_velocity;       // the direction: 0, 1; for Nesterov 1, u
  LookAheadRule look_ahead;

  HD void operator()(int64_t i) const {
    float last = scale * g[i], gradient = fma_(decay, w[i], last), direction = gradient, velocity = last;
    if constexpr (Momentum) {
      velocity = fma_(momentum, v[i], fresh * gradient);
      direction = fma_(along_velocity, velocity, along_gradient * gradient);
      v[i] = velocity;
    }
    float weight = fma_(-rate, direction, w[i]);
    w[i] = weight;
    if constexpr (!std::is_same_v<LookAheadRule, SgdNoLookAhead>) predicted[i] = look_ahead(weight, velocity, last);
  }
};

template <bool Momentum, bool Gradient>
struct SgdPredict {
  const float *w, *v, *g;
  float* predicted;
  float scale;
  SgdLookAhead<Gradient> look_ahead;

  HD void operator()(int64_t i) const {
    float last = Gradient || !Momentum ? scale * g[i] : 0;
    predicted[i] = look_ahead(w[i], Momentum ? v[i] : last, last);
  }
};

class Sgd : public Optimizer {
 public:
  explicit Sgd(const OptimizerOptions& options) : o_(options) {}

  int states() const override { return o_.momentum > 0 ? 1 : 0; }

  bool compensates() const override { return !o_.nesterov; }
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
    const float fresh = u.t == 1 ? 1 : 1 - o_.dampening;
    const double momentum = o_.momentum, kept = std::pow(momentum, u.late);
    float along_gradient = float(fresh * (1 - kept) / (1 - momentum)), along_velocity = float(kept);
    if (o_.nesterov) along_gradient = 1, along_velocity = o_.momentum;
    auto run = [&](auto look_ahead) {
      map(d, b.n,
          SgdStep<Momentum, decltype(look_ahead)>{b.w, b.state[0], b.predicted, b.g, u.gradient_scale, u.rate, u.decay * o_.weight_decay,
                                                  o_.momentum, fresh, along_gradient, along_velocity, look_ahead});
    };
    auto c = coefficients(u.t, ahead);
    if (!b.predicted) run(SgdNoLookAhead{});
    else if (c.gradient != 0) run(c);
    else run(SgdLookAhead<false>{c.weight, c.velocity});
  }

  template <bool Momentum>
  void predict(Device d, const Buffers& b, int64_t t, const LookAhead& ahead) const {
    auto run = [&]<bool Gradient>(const SgdLookAhead<Gradient>& look_ahead) {
      map(d, b.n, SgdPredict<Momentum, Gradient>{b.w, b.state[0], b.g, b.predicted, ahead.gradient_scale, look_ahead});
    };
    auto c = coefficients(t, ahead);
    if (c.gradient != 0) run(c);
    else run(SgdLookAhead<false>{c.weight, c.velocity});
  }

  // After t updates.
  SgdLookAhead<true> coefficients(int64_t t, const LookAhead& ahead) const {
    if (t == 0 || ahead.rates.empty()) return {};
    const double distance = ahead.distance(), u = o_.momentum, fresh = u > 0 ? 1 - double(o_.dampening) : 1;
    switch (ahead.mode) {
      case LookAheadMode::paper:
      case LookAheadMode::exact: return {1, float(-distance), 0};
      case LookAheadMode::released: return {1, float(-distance * u), float(-distance * fresh)};
      case LookAheadMode::decayed: break;
    }
    // What w and v are made of, as shares of today's w and v.
    struct {
      double w, v;
    } w{1, 0}, v{0, 1};
    const double c = ahead.decay * o_.weight_decay;
    for (double rate : ahead.rates) {
      v = {u * v.w + fresh * c * w.w, u * v.v + fresh * c * w.v};
      if (o_.nesterov) w = {w.w - rate * (c * w.w + u * v.w), w.v - rate * (c * w.v + u * v.v)};
      else w = {w.w - rate * v.w, w.v - rate * v.v};
    }
    return {float(w.w), float(w.v), 0};
  }

  OptimizerOptions o_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions& options) { return std::make_unique<Sgd>(options); }

}  // namespace pipecast
