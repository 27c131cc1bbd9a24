#include "optim/gradient_norm.h"

#include "engine/launch.h"

namespace pipecast {
namespace {

constexpr int64_t width = 64;  // columns summed side by side: what fills a GPU and the host's vector registers

struct Square {
  HD float operator()(float x) const { return x * x; }
};
struct Difference {  // from itself
  HD float operator()(float x) const { return x - x; }
};

// x as a matrix of `width` columns, without the last, shorter row: the sum of the terms of each column.
template <class Term, class T>
struct ColumnTerms {
  const T* x;
  float* partial;  // width
  HD Sums<1> operator()(int64_t r, int64_t c) const { return {{Term{}(x[r * width + c])}}; }
  HD void done(int64_t c, Sums<1> s) const { partial[c] = s.v[0]; }
};

// The columns' sums and the terms of the last row together, after what stood there if `adds`.
template <class Term, bool adds, class T>
struct TotalOfTerms {
  const T* last_row;
  const float* partial;
  float* total;
  HD Sums<1> operator()(int64_t i, int64_t) const { return {{i < width ? partial[i] : Term{}(last_row[i - width])}}; }
  HD void done(int64_t, Sums<1> s) const { *total = adds ? *total + s.v[0] : s.v[0]; }
};

template <class Term, bool adds, class T>
void sum_of(Device d, int64_t n, const T* x, float* sums) {
  static_assert(square_sum_floats > width);
  const int64_t whole_rows = n / width;
  columns<1>(d, whole_rows, width, ColumnTerms<Term, T>{x, sums + 1});
  columns<1>(d, width + n % width, 1, TotalOfTerms<Term, adds, T>{x + whole_rows * width, sums + 1, sums});
}

}  // namespace

void square_sum(Device d, int64_t n, const float* x, float* sums) { sum_of<Square, false>(d, n, x, sums); }
void add_differences(Device d, int64_t n, const float* x, float* sums) { sum_of<Difference, true>(d, n, x, sums); }
void add_differences(Device d, int64_t n, const Bfloat16* x, float* sums) { sum_of<Difference, true>(d, n, x, sums); }

double read_sum(Device d, const float* sums) {
  float sum = 0;
  copy(d, &sum, sums, sizeof sum);
  synchronize(d);
  return sum;
}

}  // namespace pipecast
