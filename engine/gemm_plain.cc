#include "engine/gemm.h"
#include "engine/launch.h"

namespace pipecast {

namespace {

// C[r,c] = sum over j of op(A)[r,j] * op(B)[j,c] + beta * C[r,c]. Strides say how far apart neighbours are along each index.
struct MatrixProduct {
  int64_t k;
  const float* a;
  int64_t a_row, a_column;
  const float* b;
  int64_t b_row, b_column;
  float beta;
  float* c;
  int64_t c_row;

  HD void operator()(int64_t row, int64_t column) const {
    float sum = 0;
    for (int64_t j = 0; j < k; ++j) sum += a[row * a_row + j * a_column] * b[j * b_row + column * b_column];
    float& out = c[row * c_row + column];
    out = beta == 0 ? sum : sum + beta * out;
  }
};

}  // namespace

void gemm_plain(Device d, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float beta,
                float* c, RowDistances row) {
  map(d, m, n,
      MatrixProduct{k, a, transpose_a ? 1 : row.a, transpose_a ? row.a : 1, b, transpose_b ? 1 : row.b, transpose_b ? row.b : 1, beta, c, row.c});
}

}  // namespace pipecast
