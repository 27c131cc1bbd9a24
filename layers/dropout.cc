// y = x / (1 - rate) where the element is kept, 0 where it is dropped (Srivastava et al. 2014); evaluation: y = x.
// Whether an element is kept is a pure function of (seed, layer, number of the pass, element), so backward draws the same mask again and
// nothing is saved. The elements of sequences are numbered position by position, all samples of one first: more padding keeps the mask of
// what is not padding. In bf16 runs the layer is given fp32 copies (Needs::bf16).
#include "engine/launch.h"
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
  HD void apply(int64_t i, int64_t number) const {
    const float scaled = in[i] / (1 - rate);
    out[i] = random.uniform(uint64_t(number)) < rate ? 0 : scaled;
  }
  HD void operator()(int64_t i) const { apply(i, i); }
};

// The same for rows (sample, position).
struct SequenceDropout {
  Dropout dropout;
  int64_t samples, positions, features;
  HD void operator()(int64_t r, int64_t c) const {
    const int64_t sample = r / positions, position = r % positions;
    dropout.apply(r * features + c, (position * samples + sample) * features + c);
  }
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
    if (!p.training || rate_ == 0) return copy(p.device, out.data, in, out.bytes());
    const Dropout dropout{in, out.as<float>(), random, rate_};
    const Shape& s = out.shape;
    if (s.w == 1 && s.h > 1) map(p.device, s.n * s.h, s.c, SequenceDropout{dropout, s.n, s.h, s.c});
    else map(p.device, s.count(), dropout);
  }

  float rate_;
};

}  // namespace

std::unique_ptr<Layer> dropout(std::string name, float rate) {
  require(rate >= 0 && rate < 1, "dropout", name, "the rate is " + std::to_string(rate) + "; give one in [0, 1)");
  return std::make_unique<DropoutLayer>(std::move(name), rate);
}

}  // namespace pipecast
