#include "optim/optimizer.h"

#include <cmath>
#include <numeric>

#include "engine/registry.h"

namespace pipecast {
namespace {

Registry<OptimizerEntry>& registry() {
  static Registry<OptimizerEntry> optimizers = registry_of<OptimizerEntry>(
      "optimizer",
      {{"sgd", make_sgd}, {"adam", make_adam}, {"adamw", make_adamw}, {"nadam", make_nadam}, {"rmsprop", make_rmsprop}, {"muon", make_muon}});
  return optimizers;
}

}  // namespace

double LookAhead::distance() const {
  if (mode == LookAheadMode::exact) return std::accumulate(rates.begin(), rates.end(), 0.0);
  return rates.empty() ? 0 : double(rates.size()) * rates[0];
}

void LookAhead::check_reach(const char* optimizer) const {
  if (rates.size() > size_t(max_look_ahead))
    throw UsageError(std::string("look-ahead 'decayed' with ") + optimizer + " reaches " + std::to_string(max_look_ahead) +
                     " updates, not " + std::to_string(rates.size()) + ": use fewer stages or another look-ahead");
}

std::vector<Matrix> matrices(const Segments& segments) {
  std::vector<Matrix> found;
  for (size_t i = 0; i < segments.specs.size(); ++i) {
    const ParameterSpec& spec = segments.specs[i];
    if (spec.shape.size() >= 2 && spec.count() > 0) found.push_back({segments.offsets[i], spec.shape[0], spec.count() / spec.shape[0]});
  }
  return found;
}

void Optimizer::step(Device d, const Buffers& b, const Update& u, const LookAhead& ahead) const {
  if (u.late > 0 && !compensates())
    throw UsageError("spike compensation is not defined for this optimizer: use sgd without Nesterov momentum, adam, adamw or rmsprop");
  update(d, b, u, ahead);
}

void register_optimizer(OptimizerEntry entry) { registry().add(std::move(entry)); }

std::vector<std::string> optimizer_names() { return registry().names(); }

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& o) {
  const OptimizerEntry* found = registry().search(o.name);
  std::string mistakes;
  auto require = [&](bool good, const std::string& mistake) {
    if (!good) mistakes += (mistakes.empty() ? "" : "\n") + mistake;
  };
  // Written so that a NaN fails.
  auto in_range = [&](const char* what, float value, bool good, const char* range) {
    require(good && std::isfinite(value), std::string(what) + " is " + std::to_string(value) + ": it must be " + range);
  };
  require(found, found ? "" : unknown_name("optimizer", o.name, optimizer_names()));
  in_range("momentum", o.momentum, o.momentum >= 0 && o.momentum < 1, "at least 0 and below 1");
  in_range("dampening", o.dampening, o.dampening >= 0 && o.dampening <= 1, "between 0 and 1");
  in_range("weight decay", o.weight_decay, o.weight_decay >= 0, "a number that is not negative");
  in_range("beta1", o.beta1, o.beta1 >= 0 && o.beta1 < 1, "at least 0 and below 1");
  in_range("beta2", o.beta2, o.beta2 >= 0 && o.beta2 < 1, "at least 0 and below 1");
  in_range("epsilon", o.epsilon, o.epsilon > 0, "a number above 0");
  in_range("momentum decay", o.momentum_decay, o.momentum_decay >= 0, "a number that is not negative");
  in_range("alpha", o.alpha, o.alpha >= 0 && o.alpha < 1, "at least 0 and below 1");
  require(!o.nesterov || o.name != "sgd" || (o.momentum > 0 && o.dampening == 0),
          "Nesterov momentum needs a momentum above 0 and no dampening");
  if (!mistakes.empty()) throw UsageError(mistakes);
  return found->make(o);
}

}  // namespace pipecast
