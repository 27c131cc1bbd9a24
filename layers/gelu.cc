// Gaussian error linear units (Hendrycks and Gimpel 2016), in both forms that models are published with:
//   erf form    y = x P(x), P(x) = (1 + erf(x / sqrt 2)) / 2;                 dx = dy * (P(x) + x p(x)), p = P'
//   tanh form   y = x s(x), s(x) = (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)),   u = sqrt(2 / pi) (x + 0.044715 x^3);
//               dx = dy * (s + x s (1 - s) 2 u')
#include "engine/math.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// P(x) and p(x), the normal distribution and its density. erf is formula 7.1.26 of Abramowitz and Stegun, "Handbook of Mathematical
// Functions", to 1.5e-7, whose exponential is that of the density.
struct Normal {
  float below, density;
};
HD Normal normal_at(float x) {
  const float z = (x < 0 ? -x : x) * 0.70710678f, bell = exp_(-z * z), t = 1 / (1 + 0.3275911f * z);
  const float tail = 0.5f * bell * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  return {x < 0 ? tail : 1 - tail, 0.39894228f * bell};
}

constexpr float root = 0.79788456f, cubic = 0.044715f;  // sqrt(2 / pi)

HD float sigmoid_of_tanh_form(float x) { return 1 / (1 + exp_(-2 * root * (x + cubic * x * x * x))); }

struct Erf {
  HD static float value(float x) { return x * normal_at(x).below; }
  HD static float slope(float x) {
    const Normal normal = normal_at(x);
    return normal.below + x * normal.density;
  }
};

struct TanhForm {
  HD static float value(float x) { return x * sigmoid_of_tanh_form(x); }
  HD static float slope(float x) {
    const float s = sigmoid_of_tanh_form(x);
    return s + x * s * (1 - s) * 2 * root * (1 + 3 * cubic * x * x);
  }
};

template <class Form>
struct GeluForward {
  const float* x;
  float* y;
  HD void operator()(int64_t i) const { y[i] = Form::value(x[i]); }
};

template <class Form>
struct GeluBackward {
  const float *x, *dy;
  float* dx;
  HD void operator()(int64_t i) const { dx[i] = dy[i] * Form::slope(x[i]); }
};

template <class Form>
class Gelu : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "gelu"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return x[0];
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.input = true}; }

  void forward(const Pass& p) override { map(p.device, p.y.shape.count(), GeluForward<Form>{p.x[0].as<float>(), p.y.as<float>()}); }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    map(p.device, p.y.shape.count(), GeluBackward<Form>{p.x[0].as<float>(), p.dy.as<float>(), p.dx[0].as<float>()});
  }
};

}  // namespace

std::unique_ptr<Layer> gelu(std::string name, GeluForm form) {
  if (form == GeluForm::tanh) return std::make_unique<Gelu<TanhForm>>(std::move(name));
  return std::make_unique<Gelu<Erf>>(std::move(name));
}

}  // namespace pipecast
