#include "optim/gradient_norm.h"

#include "engine/launch.h"

namespace pipecast {
namespace {

constexpr int64_t width = 64;  // columns summed side by side: what fills a GPU and the host's vector registers

// x as a matrix of `width` columns, without the last, shorter row: the sum of squares of each column.
struct ColumnSquares {
  const float* x;
  float* partial;  // width
  HD Sums<1> operator()(int64_t r, int64_t c) const { return {{x[r * width + c] * x[r * width + c]}}; }
  HD void done(int64_t c, Sums<1> s) const { partial[c] = s.v[0]; }
};

// The columns' sums and the squares of the last row together.
struct TotalOfSquares {
  const float *last_row, *partial;
  float* total;
  HD Sums<1> operator()(int64_t i, int64_t) const { return {{i < width ? partial[i] : last_row[i - width] * last_row[i - width]}}; }
  HD void done(int64_t, Sums<1> s) const { *total = s.v[0]; }
};

}  // namespace

void square_sum(Device d, int64_t n, const float* x, float* sums) {
  static_assert(square_sum_floats > width);
  const int64_t whole_rows = n / width;
  columns<1>(d, whole_rows, width, ColumnSquares{x, sums + 1});
  columns<1>(d, width + n % width, 1, TotalOfSquares{x + whole_rows * width, sums + 1, sums});
}

double read_square_sum(Device d, const float* sums) {
  float sum = 0;
  copy(d, &sum, sums, sizeof sum);
  synchronize(d);
  return sum;
}

}  // namespace pipecast
