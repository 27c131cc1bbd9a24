// Per row: loss = sum over c of (x - target)^2; the mean is over all elements. dx = scale * 2 (x - target).
#include "engine/launch.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

template <class T>
struct SquaredErrorForward {
  const T* x;
  const float* target;
  float* row_loss;
  int64_t columns;
  template <class Team>
  HD void operator()(Team team, int64_t r) const {
    const T* of_row = x + r * columns;
    const float* wanted = target + r * columns;
    const float sum = team.sum(columns, [&](int64_t c) {
      const float error = of_row[c] - wanted[c];
      return error * error;
    });
    team.each(1, [&](int64_t) { row_loss[r] = sum; });
  }
};

template <class T>
struct SquaredErrorBackward {
  const T* x;
  const float* target;
  T* dx;
  const float* scale;
  HD void operator()(int64_t i) const { dx[i] = *scale * 2 * (x[i] - target[i]); }
};

struct Total {
  const float* row_loss;
  float* total;
  HD Sums<1> operator()(int64_t r, int64_t) const { return {{row_loss[r]}}; }
  HD void done(int64_t, Sums<1> sum) const { total[0] += sum.v[0]; }
};

class MeanSquaredError : public Layer {
 public:
  using Layer::Layer;
  const char* kind() const override { return "mean_squared_error"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const bool two = x.size() == 2 && x[0].differentiable && !x[1].differentiable && x[1].storage == Storage::fp32;
    if (!two || x[1].shape != x[0].shape) refuse(*this, x, "the prediction, and an fp32 target of its shape without a gradient");
    Shape row = x[0].shape;
    row.c = 1;
    return {row, Storage::fp32, false};
  }
  Needs prepare(Device, std::span<const TensorSpec>) override { return {.input = true, .bf16 = true}; }
  std::vector<std::string> means() const override { return {"loss"}; }
  void count(std::span<const Tensor> x, double* counts) const override { counts[0] = double(x[1].shape.count()); }

  void forward(const Pass& p) override {
    const int64_t rows = p.y.shape.rows();
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      pipecast::rows(p.device, rows, SquaredErrorForward<T>{p.x[0].as<T>(), p.x[1].as<float>(), p.y.as<float>(), p.x[0].shape.c});
    });
    if (!p.replay) columns<1>(p.device, rows, 1, Total{p.y.as<float>(), p.sums});
  }
  void backward(const Pass& p) override {
    if (!p.dx[0].data) return;
    with_element(p.x[0].storage, [&](auto element) {
      using T = decltype(element);
      map(p.device, p.x[0].shape.count(), SquaredErrorBackward<T>{p.x[0].as<T>(), p.x[1].as<float>(), p.dx[0].as<T>(), p.scale});
    });
  }
};

}  // namespace

std::unique_ptr<Layer> mean_squared_error(std::string name) { return std::make_unique<MeanSquaredError>(std::move(name)); }

}  // namespace pipecast
