// y = x * keep[n, c] / (1 - rate): a channel of a sample is kept as a whole or dropped as a whole (Tompson et al., "Efficient object
// localization using convolutional networks", 2015), as torch.nn.Dropout2d does it; evaluation: y = x.
// Whether a channel is kept is a pure function of (seed, layer, number of the pass, n * channels + c), as in dropout.cc: backward draws it
// again.
#include "engine/launch.h"
#include "engine/pack.h"
#include "engine/random.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct ChannelFactors {
  float* factor;  // n x channels
  Random random;
  float rate;
  HD void operator()(int64_t i) const { factor[i] = random.uniform(uint64_t(i)) < rate ? 0 : 1 / (1 - rate); }
};

// Forward: in = x, out = y. Backward: in = dy, out = dx, with the same factors.
template <class T>
struct ChannelDropout {
  const T* in;          // n * pixels x channels
  const float* factor;  // n x channels
  T* out;
  int64_t channels, pixels;
  static constexpr int width = pack_width<T>;
  template <int W>
  HD void at(int64_t r, int64_t c) const {
    const int64_t i = r * channels + c;
    const auto values = load<W>(in + i);
    const auto factors = load<W>(factor + r / pixels * channels + c);
    Pack<T, W> scaled;
    each<W>([&](int k) {
      const float v = values.v[k];
      scaled.v[k] = factors.v[k] == 0 ? 0 : v * factors.v[k];
    });
    store(out + i, scaled);
  }
};

class ChannelDropoutLayer : public Layer {
 public:
  ChannelDropoutLayer(std::string name, float rate) : Layer(std::move(name)), rate_(rate) {}
  const char* kind() const override { return "channel_dropout"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1) refuse(*this, x, "one");
    return x[0];
  }
  // Workspace: the factors.
  Needs prepare(Device, std::span<const TensorSpec> x) override { return {.bf16 = true, .workspace = x[0].shape.n * x[0].shape.c}; }
  bool reads_step() const override { return true; }

  void forward(const Pass& p) override { apply(p, p.x[0], p.y); }
  void backward(const Pass& p) override {
    if (p.dx[0].data) apply(p, p.dy, p.dx[0]);
  }

 private:
  void apply(const Pass& p, const Tensor& in, const Tensor& out) const {
    if (!p.training || rate_ == 0) return copy(p.device, out.data, in.data, out.bytes());
    const Shape& shape = out.shape;
    map(p.device, shape.n * shape.c, ChannelFactors{p.workspace, {p.seed, purpose(name()), p.step}, rate_});
    with_element(out.storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, shape.rows(), shape.c, ChannelDropout<T>{in.as<T>(), p.workspace, out.as<T>(), shape.c, shape.h * shape.w});
    });
  }

  float rate_;
};

}  // namespace

std::unique_ptr<Layer> channel_dropout(std::string name, float rate) {
  require(rate >= 0 && rate < 1, "channel_dropout", name, "the rate is " + std::to_string(rate) + "; give one in [0, 1)");
  return std::make_unique<ChannelDropoutLayer>(std::move(name), rate);
}

}  // namespace pipecast
