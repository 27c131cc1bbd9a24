#pragma once
// What attention (attention.cc) reads and writes, for its two implementations: on the host by products of matrices (attention_on_host.cc),
// on the GPU row by row (attention_by_rows.cc).
//
// Of head h, `width` features from h * width on belong to each position. Query i sees the keys [0, visible(i)).
#include "engine/launch.h"
#include "engine/random.h"

namespace pipecast {

// Some features of every position: samples x positions, `row` floats from a position's to the next one's.
template <class T>
struct Sequences {
  T* at = nullptr;  // null: a gradient that is not wanted
  int64_t positions = 0, row = 0;
  HD T* of(int64_t sample, int64_t position, int64_t feature) const { return at + (sample * positions + position) * row + feature; }
};

struct Attention {
  int64_t samples, heads, width;
  Sequences<const float> q, k, v;
  const int32_t *query_length, *key_length;  // by sample
  bool causal;
  float scale;             // of the scores: 1 / sqrt(width)
  float* log_sums;         // samples x heads x queries: log sum exp(scale * score) over the visible keys
  Random random;           // of dropout
  float rate, kept_scale;  // of dropout: 0 in evaluation; 1 / (1 - rate)

  HD int64_t visible(int64_t sample, int64_t i) const { return causal ? i + 1 : key_length[sample]; }
  // The random numbers of the keys 4g to 4g + 3 for a query. They do not depend on how far a sequence is padded.
  HD void four_uniform(int64_t sample, int64_t head, int64_t i, int64_t g, float (&u)[4]) const {
    random.four_uniform(uint64_t(sample * heads + head) << 30 | uint64_t(i) << 14 | uint64_t(g), u);
  }
};
constexpr int64_t most_attention_positions = 1 << 16;  // 16 bits for the query, 14 for four keys, 18 for sample and head
constexpr int64_t most_attention_heads = 1 << 18;      // of all samples together

struct AttentionForward : Attention {
  Sequences<float> y;
};

struct AttentionBackward : Attention {
  Sequences<const float> y, dy;
  Sequences<float> dq, dk, dv;
};

// Floats of workspace on the host.
int64_t attention_workspace(int64_t samples, int64_t heads, int64_t most_keys);
void attention_on_host(const AttentionForward&, float* workspace);
void attention_on_host(const AttentionBackward&, float* workspace);

// On any device. workspace: samples x heads x queries.
void attention_by_rows(Device, const AttentionForward&);
void attention_by_rows(Device, const AttentionBackward&, float* workspace);

}  // namespace pipecast
