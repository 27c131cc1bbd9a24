#pragma once
// Products of a few rows with one matrix, again and again, on the host: what a recurrence computes at each of its steps. The matrix is
// packed once, into panels of four vectors of neighbouring columns; a product keeps its sums in registers.
//
// An element is a sum in the order of k, whatever rows are multiplied together: its bits depend on its own row alone.
#include "engine/vector.h"

namespace pipecast {

constexpr int panel_vectors = 4, panel_rows = vector_registers == 32 ? 6 : 2;
constexpr int64_t panel_columns = panel_vectors * lanes;

// sums[r * panel_columns + c] = sum over j < k of rows[r][j] * panel[j * panel_columns + c], for r < R
template <int R>
[[gnu::noinline]] void multiply_panel(const float* const* rows, int64_t k, const float* panel, float* sums) {
  Vector sum[R][panel_vectors] = {};
  const float* row[R];
  for (int r = 0; r < R; ++r) row[r] = rows[r];
  for (int64_t j = 0; j < k; ++j, panel += panel_columns) {
    Vector column[panel_vectors];
    for (int q = 0; q < panel_vectors; ++q) column[q] = load(panel + q * lanes);
    for (int r = 0; r < R; ++r)
      for (int q = 0; q < panel_vectors; ++q) sum[r][q] += row[r][j] * column[q];
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < panel_vectors; ++q) store(sums + r * panel_columns + q * lanes, sum[r][q]);
}

// The same for 1 to panel_rows rows.
inline void multiply_panel(int count, const float* const* rows, int64_t k, const float* panel, float* sums) {
  using Multiply = void (*)(const float* const*, int64_t, const float*, float*);
  static constexpr Multiply by_count[] = {multiply_panel<1>, multiply_panel<2>, multiply_panel<3>,
                                          multiply_panel<4>, multiply_panel<5>, multiply_panel<6>};
  by_count[count - 1](rows, k, panel, sums);
}

}  // namespace pipecast
