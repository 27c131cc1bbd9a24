// y[r] = W[token[r]], or 0 for the padding token; dW[v] += the sum of dy[r] over the positions r whose token is v, in their order.
//
// No atomic operations: the positions are sorted by their tokens, and the first position of each token adds up the rows of all of them. The
// sums do not depend on who comes first, and each token's rows are added by threads side by side, one per feature.
#include <algorithm>
#include <numeric>

#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

struct EmbeddingForward {
  const int32_t* tokens;
  const float* weight;
  float* y;
  int64_t features;
  int32_t padding;
  HD void operator()(int64_t r, int64_t c) const {
    const int64_t token = tokens[r];
    y[r * features + c] = token == padding ? 0 : weight[token * features + c];
  }
};

struct Count {
  int32_t* positions;
  HD void operator()(int64_t i) const { positions[i] = int32_t(i); }
};

// Runs of `run` positions, each sorted by token, become runs of twice that: each position finds its place by counting those of the
// other run that come before it. Equal tokens stay in order.
struct Merge {
  const int32_t *tokens, *from;
  int32_t* to;
  int64_t n, run;
  HD void operator()(int64_t i) const {
    const int64_t begin = i / (2 * run) * (2 * run);
    const int64_t middle = begin + run < n ? begin + run : n, end = begin + 2 * run < n ? begin + 2 * run : n;
    const bool left = i < middle;
    const int32_t token = tokens[from[i]];
    int64_t low = left ? middle : begin, high = left ? end : middle;
    const int64_t other = low;
    while (low < high) {
      const int64_t half = (low + high) / 2;
      const int32_t there = tokens[from[half]];
      if (left ? there < token : there <= token) low = half + 1;
      else high = half;
    }
    to[begin + (i - (left ? begin : middle)) + (low - other)] = from[i];
  }
};

struct EmbeddingBackward {
  const int32_t *tokens, *sorted;
  const float* dy;
  float* dweight;
  int64_t n, features;
  int32_t padding;
  template <class Team>
  HD void operator()(Team team, int64_t i) const {
    const int32_t token = tokens[sorted[i]];
    if (token == padding || (i > 0 && tokens[sorted[i - 1]] == token)) return;
    int64_t end = i + 1;
    while (end < n && tokens[sorted[end]] == token) ++end;
    float* to = dweight + token * features;
    team.each(features, [&](int64_t c) {
      float sum = 0;
      for (int64_t k = i; k < end; ++k) sum += dy[sorted[k] * features + c];
      to[c] += sum;
    });
  }
};

class Embedding : public Layer {
 public:
  Embedding(std::string name, EmbeddingOptions options) : Layer(std::move(name)), options_(options) {}
  const char* kind() const override { return "embedding"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    if (x.size() != 1 || x[0].storage != Storage::int32 || x[0].shape.w != 1 || x[0].shape.c != 1) refuse(*this, x, "int32 tokens (n, length, 1, 1)");
    Shape y = x[0].shape;
    y.c = options_.features;
    return y;
  }
  // As torch.nn.Embedding begins, but for the row of the padding token, which is never read.
  std::vector<ParameterSpec> parameters() const override {
    return {{"weight", {options_.vocabulary, options_.features}, options_.initial}};
  }
  // Workspace: the positions, twice.
  Needs prepare(Device, std::span<const TensorSpec> x) override { return {.input = true, .workspace = 2 * x[0].shape.count()}; }

  void forward(const Pass& p) override {
    map(p.device, p.x[0].shape.count(), options_.features,
        EmbeddingForward{p.x[0].as<int32_t>(), p.weight[0], p.y.as<float>(), options_.features, options_.padding});
  }
  void backward(const Pass& p) override {
    const int64_t n = p.x[0].shape.count();
    const int32_t* tokens = p.x[0].as<int32_t>();
    const int32_t* sorted = sort(p.device, n, tokens, reinterpret_cast<int32_t*>(p.workspace));
    rows(p.device, n, EmbeddingBackward{tokens, sorted, p.dy.as<float>(), p.dweight[0], n, options_.features, options_.padding});
  }

 private:
  // The positions by token, then by place. `room`: 2 n.
  static const int32_t* sort(Device d, int64_t n, const int32_t* tokens, int32_t* room) {
    int32_t *from = room, *to = room + n;
    if (!d.gpu) {
      std::iota(from, from + n, 0);
      std::sort(from, from + n, [tokens](int32_t a, int32_t b) { return tokens[a] != tokens[b] ? tokens[a] < tokens[b] : a < b; });
      return from;
    }
    map(d, n, Count{from});
    for (int64_t run = 1; run < n; run *= 2, std::swap(from, to)) map(d, n, Merge{tokens, from, to, n, run});
    return from;
  }

  EmbeddingOptions options_;
};

}  // namespace

std::unique_ptr<Layer> embedding(std::string name, EmbeddingOptions options) {
  require(options.vocabulary > 0 && options.vocabulary <= 1 << 30 && options.features > 0, "embedding", name,
          "it has " + std::to_string(options.vocabulary) + " tokens of " + std::to_string(options.features) + " features; give at least one of each");
  return std::make_unique<Embedding>(std::move(name), options);
}

}  // namespace pipecast
