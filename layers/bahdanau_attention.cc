// Additive attention (Bahdanau et al. 2015) with a normalised energy, as in GNMT. For the query i and the key j of a sample:
//
//   v = g * a / |a|,   s_ij = sum over d of v_d * tanh(q_id + k_jd + b_d),   p_ij = softmax over j < length of s_ij
//   y_i = sum over j of p_ij * value_j
//
// a: linear_att, g: normalize_scalar, b: normalize_bias. Backward, with t = tanh(q_i + k_j + b) computed again and
// ds_ij = p_ij (dy_i . value_j - sum over j' of p_ij' dy_i . value_j'):
//   dvalue_j = sum over i of p_ij dy_i,   dv = sum over i, j of ds_ij t,   da = g / |a| (dv - (dv . a) a / |a|^2),   dg = dv . a / |a|
//   dq_i = sum over j of u_ij,  dk_j = sum over i of u_ij,  db = sum over i, j of u_ij,   u_ij = ds_ij v (1 - t^2)
//
// Only p is kept, a number for each pair of positions: no tensor has pairs of positions and features. Sums go over positions in their
// order, sample by sample, and end at the lengths: padding changes no bit.
#include <utility>

#include "engine/math.h"
#include "layers/bias.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// What the kernels share. What they sum captures by value: g++ does not vectorize a sum through references.
struct Pairs {
  int64_t queries, keys, features, values;   // positions and channels
  const int32_t *key_length, *query_length;  // query_length may be null: all
  HD int64_t key_end(int64_t n) const { return key_length[n]; }
  HD int64_t query_end(int64_t n) const { return query_length ? query_length[n] : queries; }
  // How many keys a query sees, (n, position) = query: none behind the queries of its sample.
  HD int64_t visible(int64_t query) const { return query % queries < query_end(query / queries) ? key_end(query / queries) : 0; }
};

// v = g * a / |a|
struct EnergyVector {
  const float *a, *g;
  float* v;
  int64_t features;
  template <class Team>
  HD void operator()(Team team, int64_t) const {
    const float norm = sqrtf(team.sum(features, [&](int64_t c) { return a[c] * a[c]; }));
    team.each(features, [&](int64_t c) { v[c] = *g * a[c] / norm; });
  }
};

// Row (n * queries + i) * keys + j.
struct Scores {
  Pairs pairs;
  const float *q, *k, *v, *bias;
  float* score;
  template <class Team>
  HD void operator()(Team team, int64_t row) const {
    const int64_t j = row % pairs.keys, query = row / pairs.keys, n = query / pairs.queries, d = pairs.features;
    if (j >= pairs.key_end(n) || query % pairs.queries >= pairs.query_end(n)) return;
    const float *from = q + query * d, *to = k + (n * pairs.keys + j) * d, *of_v = v, *of_bias = bias;
    const float sum = team.sum(d, [=](int64_t c) { return of_v[c] * tanh_(from[c] + to[c] + of_bias[c]); });
    team.each(1, [&](int64_t) { score[row] = sum; });
  }
};

// In place. A row is a query; behind the lengths it is 0.
struct Softmax {
  Pairs pairs;
  float* p;
  template <class Team>
  HD void operator()(Team team, int64_t query) const {
    const int64_t end = pairs.visible(query);
    float* row = p + query * pairs.keys;
    const float largest = team.max(end, [=](int64_t j) { return row[j]; });
    const float sum = team.sum(end, [=](int64_t j) { return exp_(row[j] - largest); });
    team.each(pairs.keys, [&](int64_t j) { row[j] = j < end ? exp_(row[j] - largest) / sum : 0; });
  }
};

struct Context {
  Pairs pairs;
  const float *p, *value;
  float* y;
  template <class Team>
  HD void operator()(Team team, int64_t query) const {
    const int64_t n = query / pairs.queries, end = pairs.visible(query);
    float* to = y + query * pairs.values;
    team.each(pairs.values, [&](int64_t c) { to[c] = 0; });
    for (int64_t j = 0; j < end; ++j) {
      const float weight = p[query * pairs.keys + j], *from = value + (n * pairs.keys + j) * pairs.values;
      team.each(pairs.values, [&](int64_t c) { to[c] += weight * from[c]; });
    }
  }
};

// dp_ij = dy_i . value_j
struct WeightGradients {
  Pairs pairs;
  const float *dy, *value;
  float* dp;
  template <class Team>
  HD void operator()(Team team, int64_t row) const {
    const int64_t j = row % pairs.keys, query = row / pairs.keys, n = query / pairs.queries;
    if (j >= pairs.key_end(n) || query % pairs.queries >= pairs.query_end(n)) return;
    const float *gradient = dy + query * pairs.values, *from = value + (n * pairs.keys + j) * pairs.values;
    const float sum = team.sum(pairs.values, [=](int64_t c) { return gradient[c] * from[c]; });
    team.each(1, [&](int64_t) { dp[row] = sum; });
  }
};

// dp becomes ds.
struct SoftmaxBackward {
  Pairs pairs;
  const float* p;
  float* ds;
  template <class Team>
  HD void operator()(Team team, int64_t query) const {
    const int64_t end = pairs.visible(query);
    const float* weight = p + query * pairs.keys;
    float* row = ds + query * pairs.keys;
    const float sum = team.sum(end, [&](int64_t j) { return weight[j] * row[j]; });
    team.each(end, [&](int64_t j) { row[j] = weight[j] * (row[j] - sum); });
  }
};

struct ValueGradients {
  Pairs pairs;
  const float *p, *dy;
  float* dvalue;
  template <class Team>
  HD void operator()(Team team, int64_t key) const {
    const int64_t n = key / pairs.keys, j = key % pairs.keys, end = j < pairs.key_end(n) ? pairs.query_end(n) : 0;
    float* to = dvalue + key * pairs.values;
    team.each(pairs.values, [&](int64_t c) { to[c] = 0; });
    for (int64_t i = 0; i < end; ++i) {
      const int64_t query = n * pairs.queries + i;
      const float weight = p[query * pairs.keys + j], *from = dy + query * pairs.values;
      team.each(pairs.values, [&](int64_t c) { to[c] += weight * from[c]; });
    }
  }
};

// Row n * chunks + chunk: some features of all pairs of a sample; each member of the team has features of its own. dq and dk may be null.
struct EnergyGradients {
  static constexpr int64_t width = 64;
  Pairs pairs;
  const float *q, *k, *v, *bias, *ds;
  float *dq, *dk, *dv, *dbias;  // dv, dbias: samples x features
  template <class Team>
  HD void operator()(Team team, int64_t row) const {
    const int64_t d = pairs.features, chunks = (d + width - 1) / width, n = row / chunks, first = row % chunks * width;
    const int64_t features = first + width < d ? width : d - first, key_end = pairs.key_end(n), query_end = pairs.query_end(n);
    const float *of_v = v + first, *of_bias = bias + first;
    float *sum_v = dv + n * d + first, *sum_bias = dbias + n * d + first;
    team.each(features, [&](int64_t c) { sum_v[c] = sum_bias[c] = 0; });
    for (int64_t j = 0; j < (dk ? pairs.keys : 0); ++j) clear(team, features, dk + (n * pairs.keys + j) * d + first);
    for (int64_t i = 0; i < pairs.queries; ++i) {
      const int64_t query = n * pairs.queries + i;
      const float* from = q + query * d + first;
      float* sum_q = dq ? dq + query * d + first : nullptr;
      if (dq) clear(team, features, sum_q);
      for (int64_t j = 0; j < (i < query_end ? key_end : 0); ++j) {
        const int64_t key = (n * pairs.keys + j) * d + first;
        const float scale = ds[query * pairs.keys + j], *to = k + key;
        float* sum_k = dk ? dk + key : nullptr;
        team.each(features, [&](int64_t c) {
          const float t = tanh_(from[c] + to[c] + of_bias[c]), u = scale * of_v[c] * (1 - t * t);
          if (sum_q) sum_q[c] += u;
          if (sum_k) sum_k[c] += u;
          sum_v[c] += scale * t, sum_bias[c] += u;
        });
      }
    }
  }
  template <class Team>
  HD void clear(Team team, int64_t features, float* to) const {
    team.each(features, [&](int64_t c) { to[c] = 0; });
  }
};

// out = column sums
struct SumSamples {
  const float* in;
  float* out;
  int64_t cols;
  HD Sums<1> operator()(int64_t r, int64_t c) const { return {{in[r * cols + c]}}; }
  HD void done(int64_t c, Sums<1> sums) const { out[c] = sums.v[0]; }
};

struct EnergyVectorBackward {
  const float *a, *g, *dv;
  float *da, *dg;
  int64_t features;
  template <class Team>
  HD void operator()(Team team, int64_t) const {
    const float norm = sqrtf(team.sum(features, [&](int64_t c) { return a[c] * a[c]; }));
    const float along = team.sum(features, [&](int64_t c) { return dv[c] * a[c]; }) / norm;
    team.each(features, [&](int64_t c) { da[c] += *g / norm * (dv[c] - along * a[c] / norm); });
    team.each(1, [&](int64_t) { *dg += along; });
  }
};

class BahdanauAttention : public Layer {
 public:
  BahdanauAttention(std::string name, BahdanauOptions options) : Layer(std::move(name)), options_(options), features_(options.features) {}
  const char* kind() const override { return "bahdanau_attention"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const auto is_length = [&](size_t i) { return x[i].storage == Storage::int32 && x[i].shape == Shape{x[0].shape.n, 1, 1, 1}; };
    bool fit = (x.size() == 4 || x.size() == 5) && is_length(3) && (x.size() == 4 || is_length(4));
    for (size_t i = 0; fit && i < 3; ++i)
      fit = x[i].differentiable && x[i].shape.n == x[0].shape.n && x[i].shape.w == 1 && (i == 2 || x[i].shape.c == features_);
    if (!fit || x[1].shape.h != x[2].shape.h)
      refuse(*this, x,
             "queries (n, q, 1, " + std::to_string(features_) + "), keys (n, k, 1, " + std::to_string(features_) +
                 "), values (n, k, 1, c), an int32 number of keys for each sample, and perhaps one of queries");
    return Shape{x[0].shape.n, x[0].shape.h, 1, x[2].shape.c};
  }
  std::vector<ParameterSpec> parameters() const override {
    return {{"linear_att", {features_}, options_.initial.value_or(Initial{Initial::uniform, 0.1f})},
            {"normalize_scalar", {1}, {Initial::constant, 1 / std::sqrt(float(features_))}},
            {"normalize_bias", {features_}, {}}};
  }
  // Workspace: v, the gradients of the scores, and dv and db of each sample.
  Needs prepare(Device, std::span<const TensorSpec> x) override {
    const int64_t pairs = x[0].shape.n * x[0].shape.h * x[1].shape.h;
    return {.input = true, .saved = pairs, .workspace = 2 * features_ + pairs + 2 * x[0].shape.n * features_};
  }
  double flops(std::span<const TensorSpec> x) const override {
    return 2.0 * double(x[0].shape.n * x[0].shape.h * x[1].shape.h) * double(2 * features_ + x[2].shape.c);
  }

  void forward(const Pass& p) override {
    const Pairs pairs = pairs_of(p);
    const int64_t queries = p.y.shape.rows();
    rows(p.device, 1, EnergyVector{p.weight[0], p.weight[1], p.workspace, features_});
    rows(p.device, queries * pairs.keys, Scores{pairs, p.x[0].as<float>(), p.x[1].as<float>(), p.workspace, p.weight[2], p.saved});
    rows(p.device, queries, Softmax{pairs, p.saved});
    rows(p.device, queries, Context{pairs, p.saved, p.x[2].as<float>(), p.y.as<float>()});
  }
  void backward(const Pass& p) override {
    const Pairs pairs = pairs_of(p);
    const int64_t samples = p.y.shape.n, queries = p.y.shape.rows();
    float *next = p.workspace, *v = std::exchange(next, next + features_), *dv = std::exchange(next, next + features_),
          *ds = std::exchange(next, next + queries * pairs.keys), *sample_dv = next, *sample_dbias = next + samples * features_;
    const float* dy = p.dy.as<float>();
    rows(p.device, 1, EnergyVector{p.weight[0], p.weight[1], v, features_});
    rows(p.device, queries * pairs.keys, WeightGradients{pairs, dy, p.x[2].as<float>(), ds});
    rows(p.device, queries, SoftmaxBackward{pairs, p.saved, ds});
    if (p.dx[2].data) rows(p.device, samples * pairs.keys, ValueGradients{pairs, p.saved, dy, p.dx[2].as<float>()});
    const auto gradient = [&](size_t i) { return p.dx[i].data ? p.dx[i].as<float>() : nullptr; };
    rows(p.device, samples * ((features_ + EnergyGradients::width - 1) / EnergyGradients::width),
         EnergyGradients{pairs, p.x[0].as<float>(), p.x[1].as<float>(), v, p.weight[2], ds, gradient(0), gradient(1), sample_dv,
                         sample_dbias});
    columns<1>(p.device, samples, features_, SumSamples{sample_dv, dv, features_});
    rows(p.device, 1, EnergyVectorBackward{p.weight[0], p.weight[1], dv, p.dweight[0], p.dweight[1], features_});
    columns<1>(p.device, samples, features_, BiasBackward{sample_dbias, p.dweight[2], features_});
  }

 private:
  Pairs pairs_of(const Pass& p) const {
    return {p.x[0].shape.h, p.x[1].shape.h,       features_,
            p.x[2].shape.c, p.x[3].as<int32_t>(), p.x.size() == 5 ? p.x[4].as<int32_t>() : nullptr};
  }

  BahdanauOptions options_;
  int64_t features_;
};

}  // namespace

std::unique_ptr<Layer> bahdanau_attention(std::string name, BahdanauOptions options) {
  require(options.features >= 1, "bahdanau_attention", name, std::to_string(options.features) + " features; give at least one");
  return std::make_unique<BahdanauAttention>(std::move(name), options);
}

}  // namespace pipecast
