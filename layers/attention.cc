// Attention with several heads (Vaswani et al. 2017, section 3.2). For each sample and head, with rows q_i, k_j, v_j of `width` features:
//   P_ij = exp(s_ij) / sum_j exp(s_ij), s_ij = q_i . k_j / sqrt(width), over the keys j that query i sees;   y_i = sum_j z_ij P_ij v_j
// z is dropout's: 0, or 1 / (1 - rate). A query sees the keys before its sample's length and, if causal, none behind its own position.
//   dv_j = sum_i z_ij P_ij dy_i;   ds_ij = P_ij (z_ij dy_i . v_j - dy_i . y_i);   dq_i = sum_j ds_ij k_j / sqrt(width), dk_j alike
// The probabilities are not kept: memory is linear in the length. Backward makes them again from q, k and log sum exp(s_i) (Dao et al.,
// FlashAttention, 2022), and z from its random numbers.
#include "layers/attention_kernels.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

class AttentionLayer : public Layer {
 public:
  AttentionLayer(std::string name, AttentionOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "attention"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const int64_t d = options_.features;
    const size_t count = x.size(), sequences = count == 2 ? 1 : 3;
    bool fits = count == 2 || count == 4 || (count == 5 && !options_.causal);
    for (size_t i = 0; fits && i < count; ++i) fits = i < sequences ? is_sequence(x[i], count == 2 ? 3 * d : d) : is_length(x[i]);
    for (size_t i = 1; fits && i < count; ++i) fits = x[i].shape.n == x[0].shape.n;
    if (fits && count > 2) fits = x[1].shape == x[2].shape && (count == 5 || x[0].shape == x[1].shape);
    if (!fits)
      refuse(*this, x,
             "queries, keys and values (n, length, 1, " + std::to_string(d) + "), or one value of all three, an int32 length for each " +
                 "sample, and one for its queries where they are not the keys' own positions");
    if (x[0].shape.h > most_attention_positions || x[sequences - 1].shape.h > most_attention_positions ||
        x[0].shape.n * options_.heads > most_attention_heads)
      throw UsageError("attention '" + name() + "' got " + std::to_string(x[0].shape.n) + " samples of " + std::to_string(x[0].shape.h) +
                       " positions: at most " + std::to_string(most_attention_positions) + " positions, and " +
                       std::to_string(most_attention_heads / options_.heads) + " samples");
    Shape y = x[0].shape;
    y.c = d;
    return y;
  }
  // Saved: the logarithm of a query's sum. Of the inputs, a run keeps the lengths, too.
  Needs prepare(Device d, std::span<const TensorSpec> x) override {
    const Shape &q = x[0].shape, &k = x[x.size() == 2 ? 0 : 1].shape;
    const int64_t rows = q.n * options_.heads * q.h;
    return {.input = true, .output = true, .saved = rows, .workspace = d.gpu ? rows : attention_workspace(q.n, options_.heads, k.h)};
  }
  double flops(std::span<const TensorSpec> x) const override {
    const Shape &q = x[0].shape, &k = x[x.size() == 2 ? 0 : 1].shape;
    return 4.0 * double(q.n * q.h) * double(k.h * options_.features) / (options_.causal ? 2 : 1);
  }
  bool reads_step() const override { return options_.dropout > 0; }

  void forward(const Pass& p) override {
    AttentionForward a{common(p), sequences(p.y.as<float>(), p.y.shape, 0)};
    if (p.device.gpu) attention_by_rows(p.device, a);
    else attention_on_host(a, p.workspace);
  }
  void backward(const Pass& p) override {
    AttentionBackward a{
        common(p), sequences<const float>(p.y.as<float>(), p.y.shape, 0), sequences<const float>(p.dy.as<float>(), p.dy.shape, 0), {}, {},
        {}};
    const bool packed = p.x.size() == 2;
    Sequences<float>* to[] = {&a.dq, &a.dk, &a.dv};
    for (int k = 0; k < 3; ++k)
      if (const Tensor& dx = p.dx[packed ? 0 : size_t(k)]; dx.data) *to[k] = sequences(dx.as<float>(), dx.shape, packed ? k : 0);
    if (!a.dq.at && !a.dk.at && !a.dv.at) return;
    if (p.device.gpu) attention_by_rows(p.device, a, p.workspace);
    else attention_on_host(a, p.workspace);
  }

 private:
  static bool is_sequence(const TensorSpec& x, int64_t features) { return x.differentiable && x.shape.w == 1 && x.shape.c == features; }
  static bool is_length(const TensorSpec& x) { return x.storage == Storage::int32 && x.shape.batch(1) == Shape{}; }

  // The k-th of the values that a tensor holds side by side.
  template <class T>
  Sequences<T> sequences(T* at, const Shape& shape, int k) const {
    return {at + k * options_.features, shape.h, shape.c};
  }

  Attention common(const Pass& p) const {
    const size_t inputs = p.x.size();
    const bool packed = inputs == 2;
    const auto input = [&](int k) {
      const Tensor& x = p.x[packed ? 0 : size_t(k)];
      return sequences<const float>(x.as<float>(), x.shape, packed ? k : 0);
    };
    const int32_t* key_length = p.x[packed ? 1 : 3].as<int32_t>();
    const int64_t width = options_.features / options_.heads;
    return {.samples = p.x[0].shape.n,
            .heads = options_.heads,
            .width = width,
            .q = input(0),
            .k = input(1),
            .v = input(2),
            .query_length = inputs == 5 ? p.x[4].as<int32_t>() : key_length,
            .key_length = key_length,
            .causal = options_.causal,
            .scale = 1 / std::sqrt(float(width)),
            .log_sums = p.saved,
            .random = {p.seed, purpose(name()), p.step},
            .rate = p.training ? options_.dropout : 0,
            .kept_scale = 1 / (1 - options_.dropout)};
  }

  AttentionOptions options_;
};

}  // namespace

std::unique_ptr<Layer> attention(std::string name, AttentionOptions o) {
  require(o.heads >= 1 && o.features >= 1 && o.features % o.heads == 0, "attention", name,
          std::to_string(o.features) + " features do not divide into " + std::to_string(o.heads) + " heads; give a multiple of the heads");
  require(o.dropout >= 0 && o.dropout < 1, "attention", name,
          "the rate of dropout is " + std::to_string(o.dropout) + "; give one in [0, 1)");
  return std::make_unique<AttentionLayer>(std::move(name), o);
}

}  // namespace pipecast
