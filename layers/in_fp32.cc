#include "layers/in_fp32.h"

#include <utility>

#include "engine/memory.h"
#include "engine/round.h"

namespace pipecast {

int64_t InFp32::floats(std::span<const TensorSpec> x, const TensorSpec& y) {
  int64_t floats = 0;
  const auto add = [&](const TensorSpec& spec) { floats += spec.storage == Storage::bf16 ? 2 * aligned(spec.shape.count()) : 0; };
  add(y);
  for (const TensorSpec& spec : x) add(spec);
  return floats;
}

Tensor InFp32::place(const Tensor& of) {
  if (of.storage != Storage::bf16) return of;
  if (!of.data) return {nullptr, of.shape};
  return {std::exchange(next_, next_ + aligned(of.shape.count())), of.shape};
}

Tensor InFp32::copy(const Tensor& of) {
  const Tensor wide = place(of);
  if (of.data && of.storage == Storage::bf16) widen(device_, of.shape.count(), of.as<Bfloat16>(), wide.as<float>());
  return wide;
}

void InFp32::round(const Tensor& wide, const Tensor& to) {
  if (to.data && to.storage == Storage::bf16) pipecast::round(device_, to.shape.count(), wide.as<float>(), to.as<Bfloat16>());
}

Pass InFp32::begin(const Pass& pass, const Needs& needs, bool reads_input) {
  device_ = pass.device, next_ = pass.workspace + aligned(needs.workspace);
  x_.clear();
  const auto unread = [](const Tensor& x) { return Tensor{nullptr, x.shape, x.storage == Storage::bf16 ? Storage::fp32 : x.storage}; };
  for (const Tensor& x : pass.x) x_.push_back(reads_input ? copy(x) : unread(x));
  Pass wide = pass;
  wide.x = x_;
  return wide;
}

void InFp32::forward(Layer& layer, const Pass& pass, const Needs& needs) {
  Pass wide = begin(pass, needs, true);
  wide.y = place(pass.y);
  layer.forward(wide);
  round(wide.y, pass.y);
}

void InFp32::backward(Layer& layer, const Pass& pass, const Needs& needs) {
  Pass wide = begin(pass, needs, needs.input);
  wide.y = needs.output ? copy(pass.y) : Tensor{nullptr, pass.y.shape};
  wide.dy = copy(pass.dy);
  dx_.clear();
  for (const Tensor& dx : pass.dx) dx_.push_back(pass.adds && dx_.empty() ? copy(dx) : place(dx));
  wide.dx = dx_;
  layer.backward(wide);
  for (size_t k = 0; k < dx_.size(); ++k) round(dx_[k], pass.dx[k]);
}

}  // namespace pipecast
