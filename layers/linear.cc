// y = x * weight^T + bias, x: rows x in, weight: out x in. The rows are the pixels, or positions in time, where x has `in` channels; else
// the samples, whose values are taken as one row. A transposed weight is in x out. dx = dy * weight; dweight += dy^T * x; dbias += column
// sums of dy.
#include <algorithm>

#include "engine/gemm.h"
#include "layers/bias.h"
#include "layers/layers.h"
#include "layers/shapes.h"

namespace pipecast {
namespace {

class Linear : public Layer {
 public:
  Linear(std::string name, LinearOptions options) : Layer(std::move(name)), options_(options), in_(options.in), out_(options.out) {}
  const char* kind() const override { return "linear"; }

  TensorSpec output(std::span<const TensorSpec> x) const override {
    const Shape in = x.empty() ? Shape{} : x[0].shape;
    if (x.size() == 1 && in.c == in_) return Shape{in.n, in.h, in.w, out_};
    if (x.size() != 1 || in.h * in.w * in.c != in_) refuse(*this, x, "one of " + std::to_string(in_) + " channels, or features per sample");
    return Shape{in.n, 1, 1, out_};
  }
  std::vector<ParameterSpec> parameters() const override {
    const Initial uniform{Initial::uniform, 1 / std::sqrt(float(in_))};
    const std::vector<int64_t> shape = options_.transposed ? std::vector{in_, out_} : std::vector{out_, in_};
    std::vector<ParameterSpec> specs = {
        {.name = "weight", .shape = shape, .initial = options_.initial.value_or(uniform), .tied = options_.tied}};
    if (options_.bias) specs.push_back({"bias", {out_}, options_.bias_initial.value_or(uniform)});
    return specs;
  }
  // Workspace: see product().
  Needs prepare(Device d, std::span<const TensorSpec> x) override {
    return {.input = true, .workspace = is_short(d, output(x).shape) ? fewest_rows * (in_ + out_) : 0};
  }
  double flops(std::span<const TensorSpec> x) const override { return 2.0 * double(output(x).shape.rows()) * double(in_ * out_); }
  bool splits() const override { return true; }

  void forward(const Pass& p) override {
    const int64_t n = p.y.shape.rows();
    product(p, p.y.shape, !options_.transposed, out_, in_, p.x[0].as<float>(), p.y.as<float>());
    if (options_.bias) map(p.device, n, out_, BiasForward{p.weight[1], p.y.as<float>(), out_});
  }
  void backward(const Pass& p) override {
    const int64_t n = p.dy.shape.rows();
    if (!p.dweight.empty()) {
      // A sequence is added up by itself: the zeros of its padding come last in a sum of its own, and change no bit.
      const bool sequences = p.dy.shape.w == 1 && p.dy.shape.h > 1;
      const int64_t sums = sequences ? p.dy.shape.n : 1, rows = sequences ? p.dy.shape.h : n;
      for (int64_t k = 0; k < sums; ++k) {
        const float *dy = p.dy.as<float>() + k * rows * out_, *x = p.x[0].as<float>() + k * rows * in_;
        if (options_.transposed) gemm(p.device, true, false, in_, out_, rows, x, dy, 1, p.dweight[0]);
        else gemm(p.device, true, false, out_, in_, rows, dy, x, 1, p.dweight[0]);
        if (options_.bias) columns<1>(p.device, rows, out_, BiasBackward{dy, p.dweight[1], out_});
      }
    }
    if (p.dx[0].data) product(p, p.dy.shape, options_.transposed, in_, out_, p.dy.as<float>(), p.dx[0].as<float>());
  }

 private:
  // oneDNN has another kernel for fewer rows, where B is transposed, with sums of another order.
  static constexpr int64_t fewest_rows = 16;
  static bool is_short(Device d, const Shape& y) { return !d.gpu && y.w == 1 && y.h > 1 && y.rows() < fewest_rows; }

  // c (rows of y x n) = a (rows of y x k) * weight, or its transpose. A few positions are made more, so that they have the bits that they
  // have as a part of longer sequences.
  void product(const Pass& p, const Shape& y, bool transpose_b, int64_t n, int64_t k, const float* a, float* c) const {
    if (!transpose_b || !is_short(p.device, y)) return gemm(p.device, false, transpose_b, y.rows(), n, k, a, p.weight[0], 0, c);
    float *more = p.workspace, *result = more + fewest_rows * k;
    std::copy_n(a, y.rows() * k, more);
    std::fill(more + y.rows() * k, result, 0.f);
    gemm(p.device, false, true, fewest_rows, n, k, more, p.weight[0], 0, result);
    std::copy_n(result, y.rows() * n, c);
  }

  LinearOptions options_;
  int64_t in_, out_;
};

}  // namespace

std::unique_ptr<Layer> linear(std::string name, LinearOptions o) {
  require(o.in >= 1 && o.out >= 1, "linear", name,
          std::to_string(o.in) + " inputs and " + std::to_string(o.out) + " outputs; give at least one of each");
  return std::make_unique<Linear>(std::move(name), o);
}

}  // namespace pipecast
