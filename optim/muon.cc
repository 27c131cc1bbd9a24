// Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; torch.optim.Muon): a matrix moves by its momentum made
// orthogonal. For a matrix of `rows` x `columns` with momentum u, decoupled weight decay c, learning rate r:
//
//   m  = u m + (1 - u) g
//   x  = (1 - u) g + u m                 (Nesterov momentum, always, as in the reference)
//   O  = orthogonalised(x)
//   w  = (1 - r c) w - r k O             k = sqrt(max(1, rows / columns)), the reference's scale
//
// orthogonalised(x) is about U V' where x = U S V': five Newton-Schulz iterations x = a x + (b A + c A^2) x, A = x x', from
// x / max(|x|, 1e-7), in fp32, with the reference's a, b, c. A is taken on the shorter side: x (a I + b A + c A^2), A = x' x, where
// there are more rows than columns.
//
// Every parameter that is a matrix goes this way (a convolution [O,H,W,I] as O x HWI), the last layer's included. Vectors, biases and
// batch norm's parameters have no directions to orthogonalise (a vector would only be normalised): they take AdamW's update
// with beta1, beta2, epsilon, the same rate and decay, and AdamW's look-aheads.
//
// Look-ahead of a matrix, s updates ahead. O is kept for it: the momentum itself is no direction that the weights take.
//
//   paper, released  w - s r k O
//   exact            w - (r_1 + ... + r_s) k O
//   decayed          s times w' = (1 - r_j c) w' - r_j k O: zero gradients shorten m but do not turn it, and orthogonalising forgets
//                    lengths, so that O is held
//
// State: m and O for matrices, AdamW's m and v elsewhere. No spike compensation: what a late gradient would have contributed
// is no sum once it is orthogonalised.
#include <algorithm>
#include <cmath>

#include "engine/gemm.h"
#include "engine/math.h"
#include "optim/gradient_norm.h"
#include "optim/optimizer.h"

namespace pipecast {
namespace {

constexpr int iterations = 5;
constexpr float newton_schulz_a = 3.4445f, newton_schulz_b = -4.7750f, newton_schulz_c = 2.0315f;

struct MuonMomentum {
  float *m, *x;
  const float* g;
  float scale, momentum, rest;  // rest: 1 - momentum
  HD void operator()(int64_t i) const {
    float fresh = rest * (scale * g[i]), mean = fma_(momentum, m[i], fresh);
    m[i] = mean;
    x[i] = fma_(momentum, mean, fresh);
  }
};

struct MuonNormalize {
  float* x;
  const float* square_sum;
  HD void operator()(int64_t i) const {
    float norm = sqrtf(*square_sum);
    x[i] /= norm > 1e-7f ? norm : 1e-7f;
  }
};

// squared = a I + b A + c A^2, `side` x `side`; before, squared is A^2.
struct MuonPolynomial {
  const float* gram;
  float* squared;
  int64_t side;
  HD void operator()(int64_t i) const {
    float diagonal = i % (side + 1) == 0 ? newton_schulz_a : 0;
    squared[i] = fma_(newton_schulz_c, squared[i], fma_(newton_schulz_b, gram[i], diagonal));
  }
};

// to = keep w - rate O, to is w itself or the prediction
struct MuonMove {
  float keep = 1, rate = 0;
  HD float operator()(float w, float o) const { return fma_(-rate, o, keep * w); }
};

struct MuonPredict {
  const float *w, *o;
  float* predicted;
  MuonMove look_ahead;
  HD void operator()(int64_t i) const { predicted[i] = look_ahead(w[i], o[i]); }
};

template <bool Predicts>
struct MuonStep {
  float* w;
  const float* o;
  float* predicted;
  MuonMove move, look_ahead;
  HD void operator()(int64_t i) const {
    float weight = move(w[i], o[i]);
    w[i] = weight;
    if constexpr (Predicts) predicted[i] = look_ahead(weight, o[i]);
  }
};

int64_t side(const Matrix& m) { return std::min(m.rows, m.columns); }

class Muon : public Optimizer {
 public:
  explicit Muon(const OptimizerOptions& options) : o_(options), adamw_(make_adamw(options)) {}

  int states() const override { return 2; }
  bool compensates() const override { return false; }

  int64_t scratch(std::span<const Matrix> matrices) const override {
    const Places places(matrices);
    return places.total;
  }

  void predict(Device d, const Buffers& b, int64_t t, const LookAhead& ahead) const override {
    in_parts(
        b, [&](const Buffers& rest) { adamw_->predict(d, rest, t, ahead); },
        [&](const Matrix& matrix, const Buffers& part) {
          map(d, part.n, MuonPredict{part.w, part.state[1], part.predicted, look_ahead(matrix, t, ahead)});
        });
  }

 private:
  // The workspace: the iterate that is not O, A and its polynomial, and what square_sum() needs.
  struct Places {
    int64_t gram, polynomial, sums, total;
    explicit Places(std::span<const Matrix> matrices) {
      int64_t largest = 0, largest_side = 0;
      for (const Matrix& m : matrices) largest = std::max(largest, m.rows * m.columns), largest_side = std::max(largest_side, side(m));
      gram = aligned(largest);
      polynomial = gram + aligned(largest_side * largest_side);
      sums = polynomial + aligned(largest_side * largest_side);
      total = matrices.empty() ? 0 : sums + square_sum_floats;
    }
  };

  void update(Device d, const Buffers& b, const Update& u, const LookAhead& ahead) const override {
    const Places places(b.matrices);
    in_parts(
        b, [&](const Buffers& rest) { adamw_->step(d, rest, u, ahead); },
        [&](const Matrix& matrix, const Buffers& part) {
          float *x = b.scratch, *o = part.state[1], *sums = b.scratch + places.sums;
          map(d, part.n, MuonMomentum{part.state[0], x, part.g, u.gradient_scale, o_.momentum, 1 - o_.momentum});
          square_sum(d, part.n, x, sums);
          map(d, part.n, MuonNormalize{x, sums});
          orthogonalise(d, matrix, x, o, b.scratch + places.gram, b.scratch + places.polynomial);
          const MuonMove move{keep(u.rate, u.decay), float(u.rate * scale(matrix))};
          if (part.predicted) map(d, part.n, MuonStep<true>{part.w, o, part.predicted, move, look_ahead(matrix, u.t, ahead)});
          else map(d, part.n, MuonStep<false>{part.w, o, nullptr, move, {}});
        });
  }

  // O from the normalised x, which is lost.
  static void orthogonalise(Device d, const Matrix& matrix, float* x, float* o, float* gram, float* polynomial) {
    static_assert(iterations % 2 == 1, "the last iteration must end in o");
    const bool tall = matrix.rows > matrix.columns;
    const int64_t n = side(matrix), k = std::max(matrix.rows, matrix.columns);
    float *from = x, *to = o;
    for (int j = 0; j < iterations; ++j) {
      gemm(d, tall, !tall, n, n, k, from, from, 0, gram);
      gemm(d, false, false, n, n, n, gram, gram, 0, polynomial);
      map(d, n * n, MuonPolynomial{gram, polynomial, n});
      if (tall) gemm(d, false, false, k, n, n, from, polynomial, 0, to);
      else gemm(d, false, false, n, k, n, polynomial, from, 0, to);
      std::swap(from, to);
    }
  }

  // on_matrix(matrix, its part of the buffers) and on_rest(part) for what lies between the matrices.
  template <class OnRest, class OnMatrix>
  static void in_parts(const Buffers& b, const OnRest& on_rest, const OnMatrix& on_matrix) {
    auto part = [&](int64_t begin, int64_t end) {
      Buffers p = b;
      p.n = end - begin;
      p.w += begin, p.g += begin, p.state[0] += begin, p.state[1] += begin;
      if (p.predicted) p.predicted += begin;
      return p;
    };
    int64_t end = 0;  // of what is done
    for (const Matrix& m : b.matrices) {
      if (m.offset > end) on_rest(part(end, m.offset));
      on_matrix(m, part(m.offset, m.offset + m.rows * m.columns));
      end = m.offset + aligned(m.rows * m.columns);  // the padding stays zero
    }
    if (b.n > end) on_rest(part(end, b.n));
  }

  static double scale(const Matrix& m) { return std::sqrt(std::max(1.0, double(m.rows) / double(m.columns))); }
  float keep(double rate, float decay) const { return float(1 - rate * (decay * o_.weight_decay)); }

  MuonMove look_ahead(const Matrix& matrix, int64_t t, const LookAhead& ahead) const {
    if (t == 0) return {};
    if (ahead.mode != LookAheadMode::decayed) return {1, float(ahead.distance() * scale(matrix))};
    double of_weight = 1, along = 0;
    for (double rate : ahead.rates) {
      const double kept = 1 - rate * (ahead.decay * o_.weight_decay);
      of_weight *= kept, along = kept * along + rate * scale(matrix);
    }
    return {float(of_weight), float(along)};
  }

  OptimizerOptions o_;
  std::unique_ptr<Optimizer> adamw_;
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const OptimizerOptions& options) { return std::make_unique<Muon>(options); }

}  // namespace pipecast
