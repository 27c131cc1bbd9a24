#include "pipeline/run/health.h"

#include <cmath>
#include <utility>

namespace pipecast {

std::vector<std::string> non_finite_modes() { return {"stop", "skip"}; }
std::string to_string(NonFinite mode) { return non_finite_modes()[size_t(mode)]; }
NonFinite non_finite_mode(const std::string& name) {
  for (NonFinite mode : {NonFinite::stop, NonFinite::skip})
    if (to_string(mode) == name) return mode;
  throw UsageError(unknown_name("reaction to values that are not finite", name, non_finite_modes()));
}

template <class T>
void Health::look_at(int64_t n, const T* x) {
  if (n == 0) return;
  if (!looked_) fill_zero(device_, sums_.data(), sizeof(float));
  looked_ = true;
  add_differences(device_, n, x, sums_.data());
}

template void Health::look_at(int64_t, const float*);
void Health::look_at(const Tensor& t) {
  with_element(t.storage, [&](auto element) { look_at(t.shape.count(), t.as<decltype(element)>()); });
}

bool Health::finite() { return !std::exchange(looked_, false) || std::isfinite(read_sum(device_, sums_.data())); }

double Health::square_sum(int64_t n, const float* x) {
  pipecast::square_sum(device_, n, x, sums_.data());
  return read_sum(device_, sums_.data());
}

void Search::look_at(const std::string& what, int64_t n, const float* x) {
  if (found_) return;
  health_.look_at(n, x);
  finish(what);
}
void Search::look_at(const std::string& what, const Tensor& t) {
  if (found_) return;
  health_.look_at(t);
  finish(what);
}
void Search::finish(const std::string& what) {
  if (!health_.finite()) found_ = true, what_ = what;
}

template <class... Values>
void Search::look_at(const Layer& layer, const std::string& what, const Values&... values) {
  if (found_) return;
  look_at(what, values...);
  if (found_) layer_ = layer.name();
}

void Search::operator()(const Layer& layer, const Pass& p) {
  if (found_) return;
  const std::vector<ParameterSpec> parameters = layer.parameters();
  for (size_t k = 0; k < parameters.size(); ++k) look_at(layer, "was given a " + parameters[k].name, parameters[k].count(), p.weight[k]);
  const bool forward = p.dx.empty();
  if (forward && p.y.data) return look_at(layer, "produced a value", p.y);
  if (forward) {  // an output that is left unwritten, see Layer::normalises()
    const Normalised made = layer.normalised(p);
    for (const float* part : {made.mean, made.scale, made.shift}) look_at(layer, "produced a value", p.y.shape.c, part);
    return;
  }
  for (const Tensor& dx : p.dx)
    if (dx.data) look_at(layer, "produced a gradient of its input", dx);
  for (size_t k = 0; k < p.dweight.size(); ++k)
    look_at(layer, "produced a gradient of its " + parameters[k].name, parameters[k].count(), p.dweight[k]);
}

Diverged Search::error(Fault pass, int micro_batches) const {
  pass.layer = layer_;
  std::string sentence = (layer_.empty() ? "" : layer_ + " on ") + "stage " + std::to_string(pass.stage) + " ";
  sentence += (found_ ? what_ + " that is" : "added up a gradient whose norm is") + " not finite in the " + pass.direction +
              " of mini-batch " + std::to_string(pass.minibatch);
  if (micro_batches > 1) sentence += ", micro-batch " + std::to_string(pass.micro);
  return {sentence + "; lower --lr, add --warmup-epochs or --clip-norm, or go on without such updates by --non-finite skip", pass};
}

}  // namespace pipecast
