// Attention on the host: for each sample, head and block of 64 queries the scores of all keys at once, by products of matrices. A thread's
// memory is a block of queries x all keys, and grows with the length only (Rabe and Staats 2021). What lies behind a sample's length is
// never read, so that padding changes no bit.
#include <algorithm>
#include <cstring>

#include "engine/gemm.h"
#include "engine/math.h"
#include "layers/attention_kernels.h"

namespace pipecast {
namespace {

constexpr int64_t block_rows = 64;

// Rows of scores begin aligned alike, wherever sequences end.
int64_t aligned_keys(int64_t keys) { return (keys + 15) / 16 * 16; }

// A thread's memory. `row` floats for each of a block's queries, and for one.
struct Room {
  float *scores, *gradients, *factors;
  int64_t row;
};
int64_t room_floats(int64_t most_keys) { return (2 * block_rows + 1) * aligned_keys(most_keys); }
Room room_at(float* workspace, int64_t most_keys, int64_t slice) {
  const int64_t row = aligned_keys(most_keys);
  float* at = workspace + slice * room_floats(most_keys);
  return {at, at + block_rows * row, at + 2 * block_rows * row, row};
}

int64_t slices(int64_t items) { return std::min<int64_t>(items, std::max(threads(), omp_get_num_procs())); }

// f(item, room) for every item, each thread with a room of its own. How the items are divided changes no result.
template <class F>
void each_item(int64_t items, int64_t most_keys, float* workspace, const F& f) {
  const int64_t n = slices(items);
  parallel(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice)
      for (int64_t item = items * slice / n; item < items * (slice + 1) / n; ++item) f(item, room_at(workspace, most_keys, slice));
  });
}

void clear(const Sequences<float>& to, int64_t sample, int64_t head, int64_t width, int64_t first, int64_t last) {
  if (!to.at) return;
  for (int64_t t = first; t < last; ++t) std::memset(to.of(sample, t, head * width), 0, size_t(width) * sizeof(float));
}

// What dropout multiplies the first n probabilities of query i with; up to three more are written.
void dropout_factors(const Attention& a, int64_t sample, int64_t head, int64_t i, int64_t n, float* factors) {
#pragma omp simd
  for (int64_t g = 0; g < (n + 3) / 4; ++g) {
    float u[4];
    a.four_uniform(sample, head, i, g, u);
    factors[4 * g] = u[0] < a.rate ? 0 : a.kept_scale, factors[4 * g + 1] = u[1] < a.rate ? 0 : a.kept_scale;
    factors[4 * g + 2] = u[2] < a.rate ? 0 : a.kept_scale, factors[4 * g + 3] = u[3] < a.rate ? 0 : a.kept_scale;
  }
}

// A row of scores, n of them visible and 0 from there to `end`, becomes exp(scale * (score - largest)), with dropout behind it.
struct Softmax {
  float log_sum, inverse_sum;
};
Softmax softmax(float* row, int64_t n, int64_t end, float scale, const float* factors) {
  const HostTeam team;
  const float largest = team.max(n, [&](int64_t j) { return row[j]; });
  team.each(n, [&](int64_t j) { row[j] = exp_(scale * (row[j] - largest)); });
  const float sum = team.sum(n, [&](int64_t j) { return row[j]; });
  if (factors) team.each(n, [&](int64_t j) { row[j] *= factors[j]; });
  std::fill(row + n, row + end, 0.f);
  return {scale * largest + logf(sum), 1 / sum};
}

void forward_block(const AttentionForward& a, int64_t sample, int64_t head, int64_t first, const Room& room) {
  const int64_t last = std::min(first + block_rows, a.q.positions), column = head * a.width;
  int64_t end = std::clamp<int64_t>(a.query_length[sample], first, last);  // of this block's queries
  const int64_t keys = a.causal ? end : a.key_length[sample], rows = end - first;
  float* log_sums = a.log_sums + (sample * a.heads + head) * a.q.positions;
  if (keys == 0) end = first;
  clear(a.y, sample, head, a.width, end, last);
  std::fill(log_sums + end, log_sums + last, 0.f);
  if (end == first) return;

  gemm({}, false, true, rows, keys, a.width, a.q.of(sample, first, column), a.k.of(sample, 0, column), 0, room.scores,
       {a.q.row, a.k.row, room.row});
  float inverse_sums[block_rows];
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t n = a.visible(sample, first + i);
    if (a.rate > 0) dropout_factors(a, sample, head, first + i, n, room.factors);
    const Softmax made = softmax(room.scores + i * room.row, n, keys, a.scale, a.rate > 0 ? room.factors : nullptr);
    log_sums[first + i] = made.log_sum, inverse_sums[i] = made.inverse_sum;
  }
  gemm({}, false, false, rows, a.width, keys, room.scores, a.v.of(sample, 0, column), 0, a.y.of(sample, first, column),
       {room.row, a.v.row, a.y.row});
  for (int64_t i = 0; i < rows; ++i) {
    float* y = a.y.of(sample, first + i, column);
    HostTeam{}.each(a.width, [&](int64_t c) { y[c] *= inverse_sums[i]; });
  }
}

// From a row of scores and a row of dP = dy * v^T: the probabilities behind dropout, and the gradient of the scores,
//   dS = scale * P * (factor * dP - delta), delta = sum of dy * y
void differentiate_row(const AttentionBackward& a, int64_t n, int64_t end, float log_sum, float delta, const float* factors, float* p,
                       float* dp) {
  const HostTeam team;
  const float scale = a.scale;
  if (factors) {
    team.each(n, [&](int64_t j) {
      const float probability = exp_(scale * p[j] - log_sum), kept = probability * factors[j];
      p[j] = kept, dp[j] = scale * (kept * dp[j] - probability * delta);
    });
  } else {
    team.each(n, [&](int64_t j) {
      const float probability = exp_(scale * p[j] - log_sum);
      p[j] = probability, dp[j] = scale * probability * (dp[j] - delta);
    });
  }
  std::fill(p + n, p + end, 0.f), std::fill(dp + n, dp + end, 0.f);
}

// The part of queries [first, first + rows) in all gradients; beta 0: dk and dv begin with it.
void backward_block(const AttentionBackward& a, int64_t sample, int64_t head, int64_t first, int64_t rows, float beta, const Room& room) {
  const int64_t column = head * a.width, keys = a.causal ? first + rows : a.key_length[sample];
  const float* log_sums = a.log_sums + (sample * a.heads + head) * a.q.positions;
  const float *q = a.q.of(sample, first, column), *k = a.k.of(sample, 0, column), *dy = a.dy.of(sample, first, column);
  gemm({}, false, true, rows, keys, a.width, q, k, 0, room.scores, {a.q.row, a.k.row, room.row});
  gemm({}, false, true, rows, keys, a.width, dy, a.v.of(sample, 0, column), 0, room.gradients, {a.dy.row, a.v.row, room.row});
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t n = a.visible(sample, first + i);
    const float *y = a.y.of(sample, first + i, column), *dy_row = a.dy.of(sample, first + i, column);
    const float delta = HostTeam{}.sum(a.width, [&](int64_t c) { return dy_row[c] * y[c]; });
    if (a.rate > 0) dropout_factors(a, sample, head, first + i, n, room.factors);
    differentiate_row(a, n, keys, log_sums[first + i], delta, a.rate > 0 ? room.factors : nullptr, room.scores + i * room.row,
                      room.gradients + i * room.row);
  }
  if (a.dv.at)
    gemm({}, true, false, keys, a.width, rows, room.scores, dy, beta, a.dv.of(sample, 0, column), {room.row, a.dy.row, a.dv.row});
  if (a.dq.at)
    gemm({}, false, false, rows, a.width, keys, room.gradients, k, 0, a.dq.of(sample, first, column), {room.row, a.k.row, a.dq.row});
  if (a.dk.at)
    gemm({}, true, false, keys, a.width, rows, room.gradients, q, beta, a.dk.of(sample, 0, column), {room.row, a.q.row, a.dk.row});
}

}  // namespace

int64_t attention_workspace(int64_t samples, int64_t heads, int64_t most_keys) { return slices(samples * heads) * room_floats(most_keys); }

void attention_on_host(const AttentionForward& a, float* workspace) {
  each_item(a.samples * a.heads, a.k.positions, workspace, [&](int64_t item, const Room& room) {
    for (int64_t first = 0; first < a.q.positions; first += block_rows) forward_block(a, item / a.heads, item % a.heads, first, room);
  });
}

// The last block comes first: it sees every key that one before it sees, so that it begins the sums of dk and dv.
void attention_on_host(const AttentionBackward& a, float* workspace) {
  each_item(a.samples * a.heads, a.k.positions, workspace, [&](int64_t item, const Room& room) {
    const int64_t sample = item / a.heads, head = item % a.heads;
    const int64_t keys = a.key_length[sample], queries = keys > 0 ? a.query_length[sample] : 0, seen = queries > 0 ? keys : 0;
    clear(a.dq, sample, head, a.width, queries, a.q.positions);
    clear(a.dk, sample, head, a.width, seen, a.k.positions);
    clear(a.dv, sample, head, a.width, seen, a.v.positions);
    const int64_t blocks = (queries + block_rows - 1) / block_rows;
    for (int64_t block = blocks; block-- > 0;) {
      const int64_t first = block * block_rows;
      backward_block(a, sample, head, first, std::min(block_rows, queries - first), block + 1 == blocks ? 0 : 1, room);
    }
  });
}

}  // namespace pipecast
