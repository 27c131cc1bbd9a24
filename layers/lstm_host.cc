#include "layers/lstm_host.h"

#include <algorithm>
#include <numeric>

#include "engine/launch.h"
#include "engine/panels.h"
#include "layers/lstm_cell.h"

namespace pipecast {

LstmSequences lstm_sequences(int64_t samples, int64_t positions, const int32_t* length, int32_t* room) {
  int32_t *lengths = room, *first = room + samples, *order = room + 2 * samples;
  int64_t rows = 0;
  for (int64_t n = 0; n < samples; ++n) {
    lengths[n] = length ? length[n] : int32_t(positions);
    first[n] = int32_t(rows);
    rows += lengths[n];
  }
  std::iota(order, order + samples, 0);
  std::sort(order, order + samples, [lengths](int32_t a, int32_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });
  return {samples, positions, rows, lengths, first, order};
}

namespace {

// body(n) for every sample, shared out among the threads.
template <class Body>
void each_sample(const LstmSequences& s, int64_t floats, const Body& body) {
  parallel(s.samples, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, floats)), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) body(n);
  });
}

}  // namespace

void gather_rows(const LstmSequences& s, int64_t width, const float* padded, int64_t row, float* rows) {
  each_sample(s, s.positions * width, [&](int64_t n) {
    for (int64_t t = 0; t < s.length[n]; ++t) std::copy_n(padded + (n * s.positions + t) * row, width, rows + (s.first[n] + t) * width);
  });
}

void scatter_rows(const LstmSequences& s, int64_t width, const float* rows, float* padded) {
  each_sample(s, s.positions * width, [&](int64_t n) {
    float* to = padded + n * s.positions * width;
    std::copy_n(rows + s.first[n] * width, s.length[n] * width, to);
    std::fill_n(to + s.length[n] * width, (s.positions - s.length[n]) * width, 0.f);
  });
}

void lstm_states_before(const LstmSequences& s, const LstmDirection& d, const float* y, float* before) {
  each_sample(s, s.positions * d.hidden, [&](int64_t n) {
    const int64_t first = d.reverse ? s.length[n] - 1 : 0, step = d.reverse ? 1 : -1;
    for (int64_t t = 0; t < s.length[n]; ++t) {
      float* to = before + (s.first[n] + t) * d.hidden;
      if (t == first) std::fill_n(to, d.hidden, 0.f);
      else std::copy_n(y + (n * s.positions + t + step) * d.y_row, d.hidden, to);
    }
  });
}

namespace {

int64_t panels(int64_t columns) { return (columns + panel_columns - 1) / panel_columns; }
int64_t unit_panels(int64_t hidden) { return (hidden + lanes - 1) / lanes; }

// A panel of the forward product: the four gates of `lanes` units side by side, so that a unit's step ends with the product.
void pack_by_units(int64_t hidden, const float* weight, float* packed) {
  parallel(unit_panels(hidden), 1, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t j = 0; j < hidden; j += lanes)
        for (int64_t c = 0; c < panel_columns; ++c) {
          const int64_t unit = p * lanes + c % lanes, last = std::min(hidden, j + lanes);
          float* to = packed + p * hidden * panel_columns + c;
          const float* from = weight + (c / lanes * hidden + unit) * hidden;
          for (int64_t k = j; k < last; ++k) to[k * panel_columns] = unit < hidden ? from[k] : 0;
        }
  });
}

// A panel of the backward product: neighbouring units.
void pack_by_columns(int64_t hidden, const float* weight, float* packed) {
  parallel(panels(hidden), 1, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t k = 0; k < 4 * hidden; ++k) {
        float* to = packed + (p * 4 * hidden + k) * panel_columns;
        const int64_t width = std::min(panel_columns, hidden - p * panel_columns);
        std::copy_n(weight + k * hidden + p * panel_columns, width, to);
        std::fill_n(to + width, panel_columns - width, 0.f);
      }
  });
}

// A share of the samples, step by step. At each position a row of `k` floats, made at the neighbouring position, is multiplied by the
// packed matrix, and step(sample, t, whether there is such a neighbour, panel, the panel's sums) goes on from there.
template <class Step>
class Share {
 public:
  Share(const LstmSequences& s, int64_t share, int64_t shares, int neighbour, const Step& step)
      : s_(s), share_(share), shares_(shares), samples_((s.samples - share + shares - 1) / shares), neighbour_(neighbour), step_(step) {}

  void run(int64_t k, int64_t panels, const float* packed) const {
    const int64_t positions = samples_ > 0 ? s_.length[sample(0)] : 0;
    for (int64_t i = 0; i < positions; ++i) {
      const int64_t t = neighbour_ < 0 ? i : positions - 1 - i;
      const int64_t active = longer_than(t), joined = std::min(active, longer_than(t + neighbour_));
      for (int64_t p = 0; p < panels; ++p) {
        for (int64_t j = 0; j < joined; j += panel_rows)
          multiply(t, j, int(std::min<int64_t>(panel_rows, joined - j)), k, p, packed + p * k * panel_columns);
        const float nothing[panel_columns] = {};
        for (int64_t j = joined; j < active; ++j) step_(sample(j), t, false, p, nothing);
      }
    }
  }

 private:
  int64_t sample(int64_t j) const { return s_.order[share_ + j * shares_]; }
  // How many of the samples have a position t. They come first.
  int64_t longer_than(int64_t t) const {
    if (t < 0) return 0;
    int64_t low = 0, high = samples_;
    while (low < high) {
      const int64_t half = (low + high) / 2;
      if (s_.length[sample(half)] > t) low = half + 1;
      else high = half;
    }
    return low;
  }
  void multiply(int64_t t, int64_t j, int count, int64_t k, int64_t p, const float* panel) const {
    const float* rows[panel_rows];
    alignas(64) float sums[panel_rows * panel_columns];
    for (int r = 0; r < count; ++r) {
      rows[r] = step_.source(sample(j + r), t + neighbour_);
      step_.expect(sample(j + r), t, p);
    }
    multiply_panel(count, rows, k, panel, sums);
    for (int r = 0; r < count; ++r) step_(sample(j + r), t, true, p, sums + r * panel_columns);
  }

  const LstmSequences& s_;
  int64_t share_, shares_, samples_;
  int neighbour_;
  const Step& step_;
};

template <class Step>
void run_shares(const LstmSequences& s, int neighbour, int64_t k, int64_t panels, const float* packed, const Step& step) {
  const int64_t shares = std::min<int64_t>(threads(), s.samples);
  parallel(shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) Share<Step>(s, share, shares, neighbour, step).run(k, panels, packed);
  });
}

// f(c) for the `count` elements of a panel, up to W of them.
template <int64_t W, class F>
inline void each_lane(int64_t count, const F& f) {
  if (count >= W) {
#pragma omp simd
    for (int64_t c = 0; c < W; ++c) f(c);
  } else {
    for (int64_t c = 0; c < count; ++c) f(c);
  }
}

// Brings `count` floats near: a step's positions are far apart in memory, and while the product goes on they come. Always inline: g++ drops
// calls of a function that only prefetches.
template <int to_write = 0>
__attribute__((always_inline)) inline void prefetch(const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i, to_write);
}

struct ForwardStep {
  const LstmSequences& s;
  const LstmDirection& d;
  const float *bias_ih, *bias_hh;
  float *gates, *cell, *y;
  const float* source(int64_t n, int64_t t) const { return y + (n * s.positions + t) * d.y_row; }
  __attribute__((always_inline)) void expect(int64_t n, int64_t t, int64_t p) const {
    const int64_t row = s.first[n] + t, first = p * lanes;
    for (int64_t q = 0; q < 4; ++q) prefetch(gates + (row * 4 + q) * d.hidden + first, lanes);
    prefetch(cell + (row + (d.reverse ? 1 : -1)) * d.hidden + first, lanes);
  }
  void operator()(int64_t n, int64_t t, bool joined, int64_t p, const float* sums) const {
    const int64_t row = s.first[n] + t, first = p * lanes, hidden = d.hidden;
    float *a = gates + row * 4 * hidden + first, *c = cell + row * hidden + first, *h = y + (n * s.positions + t) * d.y_row + first;
    const float *before = c + (d.reverse ? hidden : -hidden), *ih = bias_ih + first, *hh = bias_hh + first;
    each_lane<lanes>(hidden - first, [=](int64_t u) {
      const auto sum = [&](int64_t q) { return a[q * hidden + u] + (ih[q * hidden + u] + hh[q * hidden + u]) + sums[q * lanes + u]; };
      const LstmGates on = lstm_gates({sum(0), sum(1), sum(2), sum(3)});
      const float now = lstm_cell(on, joined ? before[u] : 0);
      a[u] = on.i, a[hidden + u] = on.f, a[2 * hidden + u] = on.g, a[3 * hidden + u] = on.o;
      c[u] = now;
      h[u] = lstm_output(on, now);
    });
  }
};

struct BackwardStep {
  const LstmSequences& s;
  const LstmDirection& d;
  const float *gates, *cell, *dy;
  float *dcell, *dgates;
  const float* source(int64_t n, int64_t t) const { return dgates + (s.first[n] + t) * 4 * d.hidden; }
  __attribute__((always_inline)) void expect(int64_t n, int64_t t, int64_t p) const {
    const int64_t row = s.first[n] + t, first = p * panel_columns;
    for (int64_t q = 0; q < 4; ++q) {
      prefetch(gates + (row * 4 + q) * d.hidden + first, panel_columns);
      prefetch<1>(dgates + (row * 4 + q) * d.hidden + first, panel_columns);
    }
    prefetch(cell + row * d.hidden + first, panel_columns);
    prefetch(dy + (n * s.positions + t) * d.y_row + first, panel_columns);
  }
  void operator()(int64_t n, int64_t t, bool joined, int64_t p, const float* sums) const {
    const int64_t row = s.first[n] + t, first = p * panel_columns, hidden = d.hidden;
    const bool begins = t == (d.reverse ? s.length[n] - 1 : 0);
    const float *on = gates + row * 4 * hidden + first, *c = cell + row * hidden + first, *before = c + (d.reverse ? hidden : -hidden);
    const float* dh = dy + (n * s.positions + t) * d.y_row + first;
    float *da = dgates + row * 4 * hidden + first, *dc = dcell + n * hidden + first;
    each_lane<panel_columns>(hidden - first, [=](int64_t u) {
      const LstmGates gate = {on[u], on[hidden + u], on[2 * hidden + u], on[3 * hidden + u]};
      const LstmGradients made = lstm_gradients(gate, c[u], begins ? 0 : before[u], dh[u] + sums[u], joined ? dc[u] : 0);
      da[u] = made.a.i, da[hidden + u] = made.a.f, da[2 * hidden + u] = made.a.g, da[3 * hidden + u] = made.a.o;
      dc[u] = made.before;
    });
  }
};

}  // namespace

int64_t lstm_packed(int64_t hidden) { return std::max(unit_panels(hidden), 4 * panels(hidden)) * hidden * panel_columns; }

void lstm_forward(const LstmSequences& s, const LstmDirection& d, const float* weight_hh, const float* bias_ih, const float* bias_hh,
                  float* packed, float* gates, float* cell, float* y) {
  pack_by_units(d.hidden, weight_hh, packed);
  run_shares(s, d.reverse ? 1 : -1, d.hidden, unit_panels(d.hidden), packed, ForwardStep{s, d, bias_ih, bias_hh, gates, cell, y});
  each_sample(s, s.positions * d.hidden, [&](int64_t n) {
    for (int64_t t = s.length[n]; t < s.positions; ++t) std::fill_n(y + (n * s.positions + t) * d.y_row, d.hidden, 0.f);
  });
}

void lstm_backward(const LstmSequences& s, const LstmDirection& d, const float* weight_hh, const float* gates, const float* cell,
                   const float* dy, float* packed, float* dcell, float* dgates) {
  pack_by_columns(d.hidden, weight_hh, packed);
  run_shares(s, d.reverse ? -1 : 1, 4 * d.hidden, panels(d.hidden), packed, BackwardStep{s, d, gates, cell, dy, dcell, dgates});
}

}  // namespace pipecast
