// The LSTM of layers/lstm_cell.h over sequences, in one direction or both. What all steps share is one product each: W_ih x of all
// positions; in backward, with da of all positions: dW_ih += da^T x, dW_hh += da^T h', both db += column sums of da, dx = da W_ih.
// Only W_hh h' and its counterpart dh' = da W_hh are a product for each step.
//
// Positions behind a sample's length have the output 0 and the gradient 0 and touch nothing else: the backward direction begins at each
// sample's own last position. On the host they are not computed (layers/lstm_host.h). On the GPU, where the host does not know the lengths,
// each step is a product and a kernel over all samples.
//
// Kept: the gates after their functions and the cells, 5 * hidden floats for each position and direction; x and y. tanh(c) is computed
// again.
#include <utility>

#include "engine/gemm.h"
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/lstm_cell.h"
#include "layers/lstm_host.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

// One position t of all samples. gates: samples x positions x 4 hidden, in: W_ih x + W_hh h'. `before`: of the cells at the neighbouring
// position; null at the first step.
struct LstmForward {
  const int32_t* length;  // null: all are `positions`
  int64_t positions, t, hidden, y_row;
  const float *bias_ih, *bias_hh;
  float *gates, *cell, *y;
  const float* before;
  HD void operator()(int64_t n, int64_t u) const {
    const int64_t row = n * positions + t;
    float *a = gates + row * 4 * hidden + u, &h = y[row * y_row + u], &c = cell[row * hidden + u];
    if (length && t >= length[n]) {
      for (int q = 0; q < 4; ++q) a[q * hidden] = 0;
      c = h = 0;
      return;
    }
    const auto sum = [&](int q) { return a[q * hidden] + (bias_ih[q * hidden + u] + bias_hh[q * hidden + u]); };
    const LstmGates on = lstm_gates({sum(0), sum(1), sum(2), sum(3)});
    a[0] = on.i, a[hidden] = on.f, a[2 * hidden] = on.g, a[3 * hidden] = on.o;
    c = lstm_cell(on, before ? before[n * positions * hidden + u] : 0);
    h = lstm_output(on, c);
  }
};

// The same, backward. dh: samples x hidden, from the step behind; null at the last one. dcell: samples x hidden.
struct LstmBackward {
  const int32_t* length;
  int64_t positions, t, hidden, y_row;
  const float *gates, *cell, *before, *dy, *dh;
  float *dcell, *dgates;
  HD void operator()(int64_t n, int64_t u) const {
    const int64_t row = n * positions + t;
    const float* on = gates + row * 4 * hidden + u;
    float *a = dgates + row * 4 * hidden + u, &dc = dcell[n * hidden + u];
    LstmGradients made{};
    if (!length || t < length[n])
      made =
          lstm_gradients({on[0], on[hidden], on[2 * hidden], on[3 * hidden]}, cell[row * hidden + u],
                         before ? before[n * positions * hidden + u] : 0, dy[row * y_row + u] + (dh ? dh[n * hidden + u] : 0), dh ? dc : 0);
    a[0] = made.a.i, a[hidden] = made.a.f, a[2 * hidden] = made.a.g, a[3 * hidden] = made.a.o;
    dc = made.before;
  }
};

// Both biases have the same gradient: the column sums of da.
struct BiasGradients {
  const float* dgates;  // rows x cols
  float *dbias_ih, *dbias_hh;
  int64_t cols;
  HD Sums<1> operator()(int64_t r, int64_t c) const { return {{dgates[r * cols + c]}}; }
  HD void done(int64_t c, Sums<1> sums) const { dbias_ih[c] += sums.v[0], dbias_hh[c] += sums.v[0]; }
};

class Lstm : public Layer {
 public:
  Lstm(std::string name, LstmOptions options)
      : Layer(std::move(name)), options_(options), in_(options.in), hidden_(options.hidden), directions_(options.bidirectional ? 2 : 1) {}
  const char* kind() const override { return "lstm"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const Shape s = x.empty() ? Shape{} : x[0].shape;
    const bool sequence =
        (x.size() == 1 || x.size() == 2) && x[0].differentiable && s.w == 1 && s.c == in_ && s.rows() < (int64_t(1) << 31);
    if (!sequence || (x.size() == 2 && (x[1].storage != Storage::int32 || x[1].shape != Shape{s.n, 1, 1, 1})))
      refuse(*this, x, "a sequence (n, length, 1, " + std::to_string(in_) + "), and perhaps an int32 length for each sample");
    return Shape{s.n, s.h, 1, directions_ * hidden_};
  }
  std::vector<ParameterSpec> parameters() const override {
    const Initial uniform{Initial::uniform, 1 / std::sqrt(float(hidden_))}, weight = options_.initial.value_or(uniform);
    std::vector<ParameterSpec> specs;
    for (const std::string end : {"", "_reverse"}) {
      specs.push_back({"weight_ih_l0" + end, {4 * hidden_, in_}, weight});
      specs.push_back({"weight_hh_l0" + end, {4 * hidden_, hidden_}, weight});
      specs.push_back({"bias_ih_l0" + end, {4 * hidden_}, options_.bias_initial.value_or(uniform)});
      specs.push_back({"bias_hh_l0" + end, {4 * hidden_}, options_.hidden_bias_initial.value_or(uniform)});
      if (directions_ == 1) break;
    }
    return specs;
  }
  Needs prepare(Device d, std::span<const TensorSpec> x) override {
    const Shape& s = x[0].shape;
    const int64_t rows = s.rows(), dgates = 4 * hidden_ * rows, dcell = s.n * hidden_;
    const int64_t gathered = x.size() == 2 ? in_ * rows : 0;
    // Host: the sequences, dcell, W_hh packed, dgates, the states before, x and dx without padding. GPU: dcell, dh, dgates.
    const int64_t host = 3 * aligned(s.n) + dcell + lstm_packed(hidden_) + dgates + hidden_ * rows + 2 * gathered;
    return {.input = true, .output = true, .saved = directions_ * 5 * hidden_ * rows, .workspace = d.gpu ? dgates + 2 * dcell : host};
  }
  double flops(std::span<const TensorSpec> x) const override {
    return 2.0 * double(x[0].shape.rows()) * double(directions_ * 4 * hidden_ * (in_ + hidden_));
  }

  void forward(const Pass& p) override {
    if (p.device.gpu) {
      for (int k = 0; k < directions_; ++k) forward_on_gpu(p, direction(p, k));
      return;
    }
    const Host host = place(p);
    const float* x = gathered(p, host);
    for (int k = 0; k < directions_; ++k) {
      const Direction d = direction(p, k);
      gemm(p.device, false, true, host.s.rows, 4 * hidden_, in_, x, d.weight_ih, 0, d.gates);
      lstm_forward(host.s, {hidden_, d.reverse, p.y.shape.c}, d.weight_hh, d.bias_ih, d.bias_hh, host.packed, d.gates, d.cell,
                   p.y.as<float>() + d.column);
    }
  }
  void backward(const Pass& p) override {
    if (p.device.gpu) {
      for (int k = 0; k < directions_; ++k) backward_on_gpu(p, direction(p, k));
      return;
    }
    const Host host = place(p);
    const float* x = gathered(p, host);
    const int64_t rows = host.s.rows;
    float* dx = host.s.padded() ? host.dx : p.dx[0].as<float>();
    for (int k = 0; k < directions_; ++k) {
      const Direction d = direction(p, k);
      const LstmDirection recurrence{hidden_, d.reverse, p.y.shape.c};
      lstm_backward(host.s, recurrence, d.weight_hh, d.gates, d.cell, p.dy.as<float>() + d.column, host.packed, host.dcell, host.dgates);
      lstm_states_before(host.s, recurrence, p.y.as<float>() + d.column, host.before);
      gemm(p.device, true, false, 4 * hidden_, in_, rows, host.dgates, x, 1, d.dweight_ih);
      gemm(p.device, true, false, 4 * hidden_, hidden_, rows, host.dgates, host.before, 1, d.dweight_hh);
      columns<1>(p.device, rows, 4 * hidden_, BiasGradients{host.dgates, d.dbias_ih, d.dbias_hh, 4 * hidden_});
      if (p.dx[0].data) gemm(p.device, false, false, rows, in_, 4 * hidden_, host.dgates, d.weight_ih, k == 0 ? 0 : 1, dx);
    }
    if (p.dx[0].data && host.s.padded()) scatter_rows(host.s, in_, dx, p.dx[0].as<float>());
  }

 private:
  // One direction of a pass. `step`: from a position to the next one in the direction's order.
  struct Direction {
    bool reverse;
    int64_t step, column;  // column: of its outputs among those of y
    const float *weight_ih, *weight_hh, *bias_ih, *bias_hh;
    float *dweight_ih, *dweight_hh, *dbias_ih, *dbias_hh;
    float *gates, *cell;
  };
  Direction direction(const Pass& p, int k) const {
    Direction d{};
    d.reverse = k == 1, d.step = k == 1 ? -1 : 1, d.column = k * hidden_;
    const size_t first = size_t(4 * k);
    d.weight_ih = p.weight[first], d.weight_hh = p.weight[first + 1], d.bias_ih = p.weight[first + 2], d.bias_hh = p.weight[first + 3];
    if (!p.dweight.empty())
      d.dweight_ih = p.dweight[first], d.dweight_hh = p.dweight[first + 1], d.dbias_ih = p.dweight[first + 2],
      d.dbias_hh = p.dweight[first + 3];
    d.gates = p.saved + k * 5 * hidden_ * p.x[0].shape.rows();
    d.cell = d.gates + 4 * hidden_ * p.x[0].shape.rows();
    return d;
  }
  static const int32_t* lengths(const Pass& p) { return p.x.size() == 2 ? p.x[1].as<int32_t>() : nullptr; }

  // ---- Host ----
  struct Host {
    LstmSequences s;
    float *dcell, *packed, *dgates, *before, *x, *dx;
  };
  Host place(const Pass& p) const {
    const Shape& s = p.x[0].shape;
    float* next = p.workspace;
    const auto take = [&](int64_t floats) { return std::exchange(next, next + floats); };
    Host host{};
    host.s = lstm_sequences(s.n, s.h, lengths(p), reinterpret_cast<int32_t*>(take(3 * aligned(s.n))));
    host.packed = take(lstm_packed(hidden_)), host.dcell = take(s.n * hidden_);
    host.dgates = take(4 * hidden_ * s.rows()), host.before = take(hidden_ * s.rows());
    if (lengths(p)) host.x = take(in_ * s.rows()), host.dx = take(in_ * s.rows());
    return host;
  }
  const float* gathered(const Pass& p, const Host& host) const {
    if (!host.s.padded()) return p.x[0].as<float>();
    gather_rows(host.s, in_, p.x[0].as<float>(), in_, host.x);
    return host.x;
  }

  // ---- GPU ----
  void forward_on_gpu(const Pass& p, const Direction& d) const {
    const Shape& s = p.x[0].shape;
    const int64_t y_row = p.y.shape.c;
    float* y = p.y.as<float>() + d.column;
    gemm(p.device, false, true, s.rows(), 4 * hidden_, in_, p.x[0].as<float>(), d.weight_ih, 0, d.gates);
    for (int64_t i = 0; i < s.h; ++i) {
      const int64_t t = d.reverse ? s.h - 1 - i : i, before = t - d.step;
      if (i > 0)
        gemm(p.device, false, true, s.n, 4 * hidden_, hidden_, y + before * y_row, d.weight_hh, 1, d.gates + t * 4 * hidden_,
             {s.h * y_row, hidden_, s.h * 4 * hidden_});
      map(p.device, s.n, hidden_,
          LstmForward{lengths(p), s.h, t, hidden_, y_row, d.bias_ih, d.bias_hh, d.gates, d.cell, y,
                      i > 0 ? d.cell + before * hidden_ : nullptr});
    }
  }
  void backward_on_gpu(const Pass& p, const Direction& d) const {
    const Shape& s = p.x[0].shape;
    const int64_t y_row = p.y.shape.c, width = 4 * hidden_;
    float *dgates = p.workspace, *dcell = dgates + width * s.rows(), *dh = dcell + s.n * hidden_;
    for (int64_t i = 0; i < s.h; ++i) {
      const int64_t t = d.reverse ? i : s.h - 1 - i, before = t - d.step, behind = t + d.step;
      if (i > 0)
        gemm(p.device, false, false, s.n, hidden_, width, dgates + behind * width, d.weight_hh, 0, dh, {s.h * width, hidden_, hidden_});
      map(p.device, s.n, hidden_,
          LstmBackward{lengths(p), s.h, t, hidden_, y_row, d.gates, d.cell, i + 1 < s.h ? d.cell + before * hidden_ : nullptr,
                       p.dy.as<float>() + d.column, i > 0 ? dh : nullptr, dcell, dgates});
    }
    // A sample is added up by itself: the zeros of its padding come last or first in a sum of its own, and change no bit.
    for (int64_t n = 0; n < s.n; ++n) {
      const float *da = dgates + n * s.h * width, *x = p.x[0].as<float>() + n * s.h * in_,
                  *y = p.y.as<float>() + n * s.h * y_row + d.column;
      gemm(p.device, true, false, width, in_, s.h, da, x, 1, d.dweight_ih);
      gemm(p.device, true, false, width, hidden_, s.h - 1, d.reverse ? da : da + width, d.reverse ? y + y_row : y, 1, d.dweight_hh,
           {width, y_row, hidden_});
      columns<1>(p.device, s.h, width, BiasGradients{da, d.dbias_ih, d.dbias_hh, width});
    }
    if (p.dx[0].data) gemm(p.device, false, false, s.rows(), in_, width, dgates, d.weight_ih, d.reverse ? 1 : 0, p.dx[0].as<float>());
  }

  LstmOptions options_;
  int64_t in_, hidden_;
  int directions_;
};

}  // namespace

std::unique_ptr<Layer> lstm(std::string name, LstmOptions options) {
  require(options.in >= 1 && options.hidden >= 1, "lstm", name,
          std::to_string(options.in) + " inputs and " + std::to_string(options.hidden) + " hidden units; give at least one of each");
  return std::make_unique<Lstm>(std::move(name), options);
}

}  // namespace pipecast
