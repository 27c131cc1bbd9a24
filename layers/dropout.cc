// y = x / (1 - rate) where the element is kept, 0 where it is dropped (Srivastava et al. 2014); evaluation: y = x.
// Whether an element is kept is a pure function of (seed, layer, number of the pass, element), so backward draws the same mask again and
// nothing is saved. In bf16 runs the layer is given fp32 copies (Needs::bf16).
//
// In a sequence (n, length, 1, c) an element is counted by its sample, its position and its channel, whatever the length, so that padding
// changes no mask; and four channels share one draw of four numbers.
#include "engine/launch.h"
#include "engine/pack.h"
#include "engine/random.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// Forward: in = x, out = y. Backward: in = dy, out = dx, with the same mask.
struct Dropout {
  const float* in;
  float* out;
  Random random;
  float rate;
  HD void operator()(int64_t i) const {
    const float scaled = in[i] / (1 - rate);
    out[i] = random.uniform(uint64_t(i)) < rate ? 0 : scaled;
  }
};

struct SequenceDropout {
  const float* in;
  float* out;
  Random random;
  float rate;
  int64_t positions, channels;
  HD void operator()(int64_t r, int64_t group) const {
    const uint64_t place = uint64_t(r / positions) << position_bits | uint64_t(r % positions);
    float u[4];
    random.four_uniform(place * uint64_t((channels + 3) / 4) + uint64_t(group), u);
    const int64_t first = r * channels + group * 4, left = channels - group * 4;
    const float scale = 1 / (1 - rate);
    each<4>([&](int k) {
      if (k < left) out[first + k] = u[k] < rate ? 0 : in[first + k] * scale;
    });
  }
  static constexpr int position_bits = 20;
};

class DropoutLayer : public Layer {
 public:
  DropoutLayer(std::string name, float rate) : Layer(std::move(name)), rate_(rate) {}
  const char* kind() const override { return "dropout"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return x[0];
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {}; }
  bool reads_step() const override { return true; }  // so passes cannot be recorded and replayed

  void forward(const Pass& p) override { apply(p, p.x[0].as<float>(), p.y); }
  void backward(const Pass& p) override {
    if (p.dx[0].data) apply(p, p.dy.as<float>(), p.dx[0]);
  }

 private:
  void apply(const Pass& p, const float* in, Tensor out) const {
    const Random random{p.seed, purpose(name()), p.step};
    const Shape& s = out.shape;
    if (!p.training || rate_ == 0) return copy(p.device, out.data, in, out.bytes());
    if (s.w == 1 && s.h > 1) map(p.device, s.n * s.h, (s.c + 3) / 4, SequenceDropout{in, out.as<float>(), random, rate_, s.h, s.c});
    else map(p.device, s.count(), Dropout{in, out.as<float>(), random, rate_});
  }

  float rate_;
};

}  // namespace

std::unique_ptr<Layer> dropout(std::string name, float rate) {
  require(rate >= 0 && rate < 1, "dropout", name, "the rate is " + std::to_string(rate) + "; give one in [0, 1)");
  return std::make_unique<DropoutLayer>(std::move(name), rate);
}

}  // namespace pipecast
