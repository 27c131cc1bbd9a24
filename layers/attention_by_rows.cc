// Attention row by row, a warp for each: no scores are written down. The softmax of a query is made as its keys stream by (Milakov and
// Gimelshein 2018; Dao et al., FlashAttention, 2022): with m the largest score so far, s = sum exp(score - m) and y = sum exp(score - m) v,
// a larger score multiplies both by exp(old m - new m). Backward makes the probabilities again from log_sums; a row of dq sums over the
// keys, a row of dk and dv over the queries, each in order, so that no atomic operations are needed.
#include "engine/math.h"
#include "engine/pack.h"
#include "layers/attention_kernels.h"

namespace pipecast {
namespace {

constexpr int group = 8;  // keys, or queries, that a row meets at once

struct Row {
  int64_t sample, head, position, column;
};
HD Row row_of(const Attention& a, int64_t r, int64_t positions) {
  const int64_t head = r / positions % a.heads;
  return {r / positions / a.heads, head, r % positions, head * a.width};
}

HD float factor(const Attention& a, const Row& row, int64_t i, int64_t j) {
  if (a.rate == 0) return 1;
  float u[4];
  a.four_uniform(row.sample, row.head, i, j / 4, u);
  const float mine = j % 4 == 0 ? u[0] : j % 4 == 1 ? u[1] : j % 4 == 2 ? u[2] : u[3];
  return mine < a.rate ? 0 : a.kept_scale;
}

template <class Team>
HD float dot(const Team& team, int64_t n, const float* a, const float* b) {
  return team.sum(n, [=](int64_t c) { return a[c] * b[c]; });
}

struct ForwardRow : AttentionForward {
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const Row row = row_of(*this, r, q.positions);
    float* to = y.of(row.sample, row.position, row.column);
    team.each(width, [=](int64_t c) { to[c] = 0; });
    const bool empty = row.position >= query_length[row.sample] || key_length[row.sample] == 0;
    float largest = -INFINITY, sum = 0;
    for (int64_t j = 0, n = empty ? 0 : visible(row.sample, row.position); j < n; j += group) add_keys(team, row, j, n, to, largest, sum);
    if (!empty) team.each(width, [=](int64_t c) { to[c] /= sum; });
    float* log_sum = log_sums + r;
    team.each(1, [=](int64_t) { *log_sum = empty ? 0 : largest + logf(sum); });
  }
  template <class Team>
  HD void add_keys(const Team& team, const Row& row, int64_t j, int64_t n, float* to, float& largest, float& sum) const {
    const float* query = q.of(row.sample, row.position, row.column);
    float p[group], before = largest;
    each<group>([&](int e) {
      p[e] = j + e < n ? scale * dot(team, width, query, k.of(row.sample, j + e, row.column)) : -INFINITY;
      largest = p[e] > largest ? p[e] : largest;
    });
    const float old = j == 0 ? 0 : exp_(before - largest);
    sum *= old;
    each<group>([&](int e) {
      if (j + e >= n) return;
      p[e] = exp_(p[e] - largest), sum += p[e];
      p[e] *= factor(*this, row, row.position, j + e);
    });
    const float* values = v.of(row.sample, j, row.column);
    const int64_t distance = v.row;
    team.each(width, [=](int64_t c) {
      float made = to[c] * old;
      each<group>([&](int e) { made += j + e < n ? p[e] * values[e * distance + c] : 0; });
      to[c] = made;
    });
  }
};

// delta[r] = sum of dy * y
struct DeltaRow : AttentionBackward {
  float* delta;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const Row row = row_of(*this, r, q.positions);
    const float made = dot(team, width, dy.of(row.sample, row.position, row.column), y.of(row.sample, row.position, row.column));
    float* to = delta + r;
    team.each(1, [=](int64_t) { *to = made; });
  }
};

// The probability of key j for query i behind dropout, and the gradient of its score.
struct Pair {
  float kept, dscore;
};
template <class Team>
HD Pair pair_of(const Team& team, const AttentionBackward& a, const Row& row, int64_t i, int64_t j, const float* delta) {
  const int64_t r = (row.sample * a.heads + row.head) * a.q.positions + i;
  const float score = dot(team, a.width, a.q.of(row.sample, i, row.column), a.k.of(row.sample, j, row.column));
  const float dp = dot(team, a.width, a.dy.of(row.sample, i, row.column), a.v.of(row.sample, j, row.column));
  const float p = exp_(a.scale * score - a.log_sums[r]), kept = p * factor(a, row, i, j);
  return {kept, a.scale * (kept * dp - p * delta[r])};
}

struct QueryGradientRow : AttentionBackward {
  const float* delta;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const Row row = row_of(*this, r, q.positions);
    float* to = dq.of(row.sample, row.position, row.column);
    team.each(width, [=](int64_t c) { to[c] = 0; });
    const bool empty = row.position >= query_length[row.sample] || key_length[row.sample] == 0;
    for (int64_t j = 0, n = empty ? 0 : visible(row.sample, row.position); j < n; j += group) {
      float dscore[group];
      each<group>([&](int e) { dscore[e] = j + e < n ? pair_of(team, *this, row, row.position, j + e, delta).dscore : 0; });
      const float* keys = k.of(row.sample, j, row.column);
      const int64_t distance = k.row;
      team.each(width, [=](int64_t c) {
        float made = to[c];
        each<group>([&](int e) { made += j + e < n ? dscore[e] * keys[e * distance + c] : 0; });
        to[c] = made;
      });
    }
  }
};

struct KeyGradientRow : AttentionBackward {
  const float* delta;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const Row row = row_of(*this, r, k.positions);
    float* key_to = dk.at ? dk.of(row.sample, row.position, row.column) : nullptr;
    float* value_to = dv.at ? dv.of(row.sample, row.position, row.column) : nullptr;
    team.each(width, [=](int64_t c) {
      if (key_to) key_to[c] = 0;
      if (value_to) value_to[c] = 0;
    });
    const int64_t n = row.position < key_length[row.sample] ? query_length[row.sample] : 0;
    for (int64_t i = causal ? row.position : 0; i < n; i += group) {
      Pair pairs[group];
      each<group>([&](int e) { pairs[e] = i + e < n ? pair_of(team, *this, row, i + e, row.position, delta) : Pair{0, 0}; });
      const float *queries = q.of(row.sample, i, row.column), *slopes = dy.of(row.sample, i, row.column);
      const int64_t query_distance = q.row, slope_distance = dy.row;
      team.each(width, [=](int64_t c) {
        float key = 0, value = 0;
        each<group>([&](int e) {
          if (i + e >= n) return;
          key += pairs[e].dscore * queries[e * query_distance + c], value += pairs[e].kept * slopes[e * slope_distance + c];
        });
        if (key_to) key_to[c] += key;
        if (value_to) value_to[c] += value;
      });
    }
  }
};

}  // namespace

void attention_by_rows(Device d, const AttentionForward& a) { rows(d, a.samples * a.heads * a.q.positions, ForwardRow{a}); }

void attention_by_rows(Device d, const AttentionBackward& a, float* workspace) {
  const int64_t heads = a.samples * a.heads;
  rows(d, heads * a.q.positions, DeltaRow{a, workspace});
  if (a.dq.at) rows(d, heads * a.q.positions, QueryGradientRow{a, workspace});
  if (a.dk.at || a.dv.at) rows(d, heads * a.k.positions, KeyGradientRow{a, workspace});
}

}  // namespace pipecast
