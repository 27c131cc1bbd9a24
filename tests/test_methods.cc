// What a method does to the weights, against its formula: a small model trained by the engine, and the same updates computed here in double
// precision, mini-batch after mini-batch, from a history of the weights. There are no programs, no messages and no order of
// execution here, only each method's rule for which weights a pass reads.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "picture_batches.h"
#include "engine/random.h"
#include "layers/layers.h"
#include "models/models.h"
#include "models/weights.h"
#include "pipeline/train/trainer.h"

using namespace pipecast;
using testing::PictureBatches;

namespace {

using Vector = std::vector<double>;

// A chain of linear layers without bias, one per stage: widths[k] -> widths[k + 1].
Graph chain(const std::vector<int64_t>& widths) {
  Graph g("chain", {1, 1, 1, widths[0]});
  int x = 0;
  for (size_t k = 0; k + 1 < widths.size(); ++k) {
    g.part("part" + std::to_string(k));
    x = g.add(linear("fc" + std::to_string(k), widths[k], widths[k + 1], false), {x});
  }
  add_classifier_loss(g, x, 0);
  return g;
}

PictureSet points(int64_t count, int64_t features, int64_t classes) {
  PictureSet d{"points",
            {1, 1, 1, features},
            classes,
            {},
            {},
            std::vector<float>(size_t(features), 0.5f),
            std::vector<float>(size_t(features), 0.25f)};
  Random random{11, purpose("points"), 0};
  for (int64_t i = 0; i < count; ++i) d.train.labels.push_back(int32_t(random.below(1000000 + i, uint32_t(classes))));
  for (int64_t i = 0; i < count * features; ++i) d.train.pixels.push_back(uint8_t(random.below(i, 256)));
  return d;
}

struct Case {
  std::string method;
  LookAheadMode look_ahead = LookAheadMode::paper;
  int micro_batches = 1;
  std::string optimizer = "sgd";
  int64_t synchronous = 0, rescale = 0;  // mini-batches
  bool grouped = false;                  // stage 1 is frozen, stage 2 learns at head_rate times the rate
};

constexpr int64_t batch = 6, per_epoch = 20, updates = 13;
constexpr double momentum = 0.8, decay = 0.01, beta1 = 0.85, beta2 = 0.95, epsilon = 1e-6, psi = 0.1;
constexpr int64_t refill = 8;  // the pipeline drains before this mini-batch
constexpr double base_rate = 0.12, head_rate = 1.75;

// Cosine from the base to 0 over two epochs.
double rate_at(int64_t update) { return base_rate * (1 + std::cos(std::numbers::pi * double(update) / (2 * per_epoch))) / 2; }

// The weights of one stage after every number of updates, with the optimizer's state.
class History {
 public:
  History(Vector initial, std::string optimizer, double factor) : optimizer_(std::move(optimizer)), factor_(factor) {
    const size_t n = initial.size();
    w.push_back(initial), v.push_back(Vector(n)), s.push_back(Vector(n)), g.push_back(Vector(n)), drift.push_back(Vector(n));
  }
  std::vector<Vector> w, v, s, g;  // after j updates: weights, first and second moment, the gradient of the last
  std::vector<Vector> drift;       // PipeMare's mean change

  // The update with a gradient that comes `late` updates late; tau is PipeMare's.
  void update(const Vector& gradient, double rate, int late, int tau, bool drift_begins) {
    const double t = double(w.size());
    Vector weights = w.back(), first = v.back(), second = s.back(), change = drift.back();
    rate *= factor_;
    for (size_t e = 0; factor_ > 0 && e < weights.size(); ++e) {
      const double before = weights[e];
      if (optimizer_ == "sgd") {
        const double whole = gradient[e] + decay * weights[e];
        first[e] = momentum * first[e] + whole;
        const double left = std::pow(momentum, late);
        weights[e] -= rate * (left * first[e] + (1 - left) / (1 - momentum) * whole);
      } else {
        first[e] = beta1 * first[e] + (1 - beta1) * gradient[e];
        second[e] = beta2 * second[e] + (1 - beta2) * gradient[e] * gradient[e];
        weights[e] *= 1 - rate * decay;
        const double left = std::pow(beta1, late), compensated = left * first[e] + (1 - left) * gradient[e];
        double direction = compensated / (1 - std::pow(beta1, t));
        if (optimizer_ == "nadam")
          direction = mu(t + 1) * first[e] / (1 - product_of_mu(t + 1)) + (1 - mu(t)) * gradient[e] / (1 - product_of_mu(t));
        weights[e] -= rate * direction / (std::sqrt(second[e] / (1 - std::pow(beta2, t))) + epsilon);
      }
      const double keep = tau > 0 ? std::pow(0.135, 1.0 / tau) : 0;
      change[e] = drift_begins ? 0 : keep * change[e] + (1 - keep) * (weights[e] - before);
    }
    w.push_back(weights), v.push_back(first), s.push_back(second), g.push_back(gradient), drift.push_back(change);
  }

  // The weights predicted `ahead` updates from version j; below 0, PipeMare's estimate of where they were. Before the first update
  // there is nothing to predict from.
  Vector predicted(size_t j, int ahead, LookAheadMode mode) const {
    Vector result = w[j];
    if (j == 0 || factor_ == 0) return result;
    const double t = double(j);
    double distance = ahead * factor_ * rate_at(int64_t(j));
    if (mode == LookAheadMode::exact) {
      distance = 0;
      for (int step = 0; step < ahead; ++step) distance += factor_ * rate_at(int64_t(j) + step);
    }
    for (size_t e = 0; e < result.size(); ++e) {
      if (ahead < 0) {
        result[e] += ahead * drift[j][e];
      } else if (mode == LookAheadMode::decayed) {
        double first = v[j][e];
        for (int step = 1; step <= ahead; ++step) {
          const double rate = factor_ * rate_at(int64_t(j) + step - 1);
          if (optimizer_ == "sgd") {
            first = momentum * first + decay * result[e];
            result[e] -= rate * first;
          } else {
            first *= beta1;
            result[e] *= 1 - rate * decay;
            result[e] -= rate * adam(first, s[j][e], t + step);
          }
        }
      } else if (optimizer_ == "sgd") {
        result[e] -= distance * (mode == LookAheadMode::released ? momentum * v[j][e] + g[j][e] : v[j][e]);
      } else {
        result[e] -= distance * adam(v[j][e], s[j][e], t, mode == LookAheadMode::released ? 1e-8 : epsilon);
      }
    }
    return result;
  }

 private:
  static double mu(double t) { return beta1 * (1 - 0.5 * std::pow(0.96, t * psi)); }
  static double product_of_mu(double t) {
    double product = 1;
    for (int i = 1; i <= int(t); ++i) product *= mu(i);
    return product;
  }
  static double adam(double first, double second, double t, double eps = epsilon) {
    return first / (1 - std::pow(beta1, t)) / (std::sqrt(second / (1 - std::pow(beta2, t))) + eps);
  }
  std::string optimizer_;
  double factor_;  // of the learning rate; 0: frozen
};

// Which weights a pass reads: those after `version` updates, predicted `ahead` updates on.
struct Choice {
  int64_t version;
  int ahead = 0;
};
struct Choices {
  Choice forward, backward;
};

bool synchronous(const std::string& method) {
  return method == "gpipe" || method == "1f1b-flush" || method == "interleaved" || method == "zero-bubble" || method == "model-parallel";
}

// The rules, for micro-batch m of mini-batch i on stage k of `stages`, in a pipeline that was filled before mini-batch `fill`.
Choices choose(const Case& c, int stages, int k, int64_t i, int m, int64_t fill) {
  const int last = stages - 1, parts = c.micro_batches;
  // A pass goes forward on stage k when all but the D - 1 - k passes before it have come back.
  auto live_at_forward = [&](int stage, int micro) {
    return fill + std::max<int64_t>(0, (i - fill) * parts + micro - (last - stage)) / parts;
  };
  if (synchronous(c.method) || i < c.synchronous) return {{i}, {i}};
  const int64_t forward = live_at_forward(k, m);
  const int lag = int(i - forward);
  const bool counted = c.look_ahead == LookAheadMode::exact || c.look_ahead == LookAheadMode::decayed;
  const bool released = c.look_ahead == LookAheadMode::released;
  const int reach = counted ? lag : last - k + (released ? 1 : 0);
  if (c.method == "vanilla" || c.method == "spike-compensation") return {{forward}, {i}};
  if (c.method == "pipeoptim" || c.method == "spike-compensation-lwp") return {{forward, reach}, {i}};
  if (c.method == "pipedream" || c.method == "nadam-async") return {{forward}, {forward}};
  if (c.method == "pipedream-vertical") return {{live_at_forward(0, m)}, {live_at_forward(0, m)}};
  if (c.method == "pipedream-2bw") return {{std::max(fill, i - 1)}, {std::max(fill, i - 1)}};
  if (c.method == "spectrain-v1") return {{forward, k / 2 + (counted ? lag : last - k)}, {i, k / 2}};
  if (c.method == "spectrain-v2") {
    const int ahead = released ? 0 : reach;
    return {{forward, ahead}, {forward, ahead}};
  }
  if (c.method == "xpipe") {
    auto nearest = [](double x) { return int(std::floor(x + 0.5)); };
    const double back = double(parts + k / 2 - 1) / parts;
    return {{live_at_forward(k, 0), nearest((parts + stages - k / 2.0 - 2) / parts)}, {i, released ? int(back) : nearest(back)}};
  }
  REQUIRE(c.method == "pipemare");
  return {{forward}, {i, -(last - k)}};
}

// All weights, stage after stage, after `updates` mini-batches.
Vector direct(const Case& c, const std::vector<int64_t>& widths, const PictureSet& data, const std::vector<Vector>& initial) {
  const int stages = int(widths.size()) - 1, last = stages - 1;
  const int64_t features = widths[0], classes = widths.back();
  std::vector<History> history;
  for (const Vector& w : initial) {
    const size_t k = history.size();
    history.emplace_back(w, c.optimizer, !c.grouped || k == 0 || k > 2 ? 1 : k == 1 ? 0 : head_rate);
  }

  for (int64_t i = 0; i < updates; ++i) {
    int64_t fill = i >= refill ? refill : 0;
    if (i >= c.synchronous) fill = std::max(fill, c.synchronous);
    std::vector<Vector> gradient;
    for (const Vector& w : initial) gradient.push_back(Vector(w.size()));
    const int parts = c.micro_batches;
    for (int m = 0; m < parts; ++m) {
      std::vector<Vector> forward_weights, backward_weights;
      for (int k = 0; k < stages; ++k) {
        const Choices choices = choose(c, stages, k, i, m, fill);
        auto read = [&](const Choice& choice) { return history[k].predicted(size_t(choice.version), choice.ahead, c.look_ahead); };
        forward_weights.push_back(read(choices.forward)), backward_weights.push_back(read(choices.backward));
      }
      for (int64_t row = batch * m / parts; row < batch * (m + 1) / parts; ++row) {
        const int64_t sample = (i * batch + row) % data.train.size();
        std::vector<Vector> x(1);
        for (int64_t f = 0; f < features; ++f) x[0].push_back((data.train.pixels[sample * features + f] / 255.0 - 0.5) / 0.25);
        for (int k = 0; k < stages; ++k) {
          Vector y(widths[k + 1]);
          for (size_t o = 0; o < y.size(); ++o)
            for (size_t e = 0; e < x[k].size(); ++e) y[o] += forward_weights[k][o * x[k].size() + e] * x[k][e];
          x.push_back(y);
        }
        double sum = 0;
        for (double logit : x.back()) sum += std::exp(logit);
        Vector dy;
        for (int64_t o = 0; o < classes; ++o)
          dy.push_back((std::exp(x.back()[o]) / sum - (o == data.train.labels[sample] ? 1 : 0)) / batch);
        for (int k = last; k >= 0; --k) {
          Vector dx(widths[k]);
          for (size_t o = 0; o < dy.size(); ++o)
            for (size_t e = 0; e < dx.size(); ++e) {
              gradient[k][o * dx.size() + e] += dy[o] * x[k][e];
              dx[e] += backward_weights[k][o * dx.size() + e] * dy[o];
            }
          dy = dx;
        }
      }
    }
    for (int k = 0; k < stages; ++k) {
      const int tau = last - k;
      double rate = rate_at(i);
      if (i >= c.synchronous && c.method == "spectrain-v2" && c.look_ahead == LookAheadMode::released) rate *= stages - k;
      if (i >= c.synchronous && c.method == "pipemare" && c.rescale > 0 && tau > 0)
        rate /= std::pow(tau, 1 - std::min(1.0, double(i) / double(c.rescale)));
      // The gradient is as late as the first micro-batch's forward was early.
      const bool compensates = i >= c.synchronous && c.method.starts_with("spike-compensation");
      const int late =
          compensates ? int(i - choose({.method = "vanilla", .micro_batches = c.micro_batches}, stages, k, i, 0, fill).forward.version) : 0;
      history[k].update(gradient[k], rate, late, tau, i < c.synchronous);
    }
  }
  Vector all;
  for (const History& h : history) all.insert(all.end(), h.w.back().begin(), h.w.back().end());
  return all;
}

TrainerOptions options_of(const Case& c, int stages) {
  TrainerOptions o;
  o.stages = stages, o.threads = stages;
  o.method = c.method, o.look_ahead = c.look_ahead, o.micro_batches = c.micro_batches;
  if (c.method == "interleaved") o.stages = stages / 2, o.chunks = 2;
  o.partition.assign(size_t(stages), 1);
  o.synchronous_epochs = double(c.synchronous) / per_epoch, o.rescale_epochs = double(c.rescale) / per_epoch;
  o.optimizer = {.name = c.optimizer,
                 .momentum = float(momentum),
                 .weight_decay = float(decay),
                 .beta1 = float(beta1),
                 .beta2 = float(beta2),
                 .epsilon = float(epsilon),
                 .momentum_decay = float(psi)};
  if (c.grouped) o.groups = {.frozen = {"fc1"}, .head = {"fc2"}, .head_rate = float(head_rate)};
  o.schedule = {.name = "cosine", .rate = float(base_rate), .epochs = 2};
  o.batch = batch;
  return o;
}

// Every weight of the model, in the order of its layers.
Vector values(const Weights& w) {
  Vector all;
  for (size_t s = 0; s < w.parameters.specs.size(); ++s)
    for (int64_t e = 0; e < w.parameters.specs[s].count(); ++e) all.push_back(w.parameter_values[size_t(w.parameters.offsets[s] + e)]);
  return all;
}

struct Result {
  Vector engine, formula;
};

Result both(const Case& c, const std::vector<int64_t>& widths) {
  const int stages = int(widths.size()) - 1;
  const PictureSet data = points(batch * per_epoch, widths[0], widths.back());
  Trainer trainer(chain(widths), options_of(c, stages));
  Weights w = trainer.weights();
  for (float& value : w.parameter_values) value *= 1.5f;  // so that the model does something, and its weights matter to each other
  trainer.set_weights(w);
  const Vector flat = values(w);
  std::vector<Vector> initial;
  size_t at = 0;
  for (int k = 0; k < stages; ++k) {
    const size_t count = size_t(widths[k] * widths[k + 1]);
    initial.emplace_back(flat.begin() + ptrdiff_t(at), flat.begin() + ptrdiff_t(at + count));
    at += count;
  }
  const PictureBatches batches(data, data.train, batch, false, {}, 1);
  trainer.train(batches, 0, refill);
  trainer.train(batches, refill, updates);
  return {values(trainer.weights()), direct(c, widths, data, initial)};
}

double distance(const Vector& a, const Vector& b) {
  double most = 0, largest = 0;
  for (size_t e = 0; e < a.size(); ++e) most = std::max(most, std::fabs(a[e] - b[e])), largest = std::max(largest, std::fabs(b[e]));
  return most / largest;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string optimizer : {"sgd", "adamw"}) {
    for (const std::string method : {"vanilla", "pipedream", "pipedream-vertical", "spike-compensation", "pipemare"})
      for (int micro_batches : {1, 2}) all.push_back({method, LookAheadMode::paper, micro_batches, optimizer});
    for (LookAheadMode mode : {LookAheadMode::paper, LookAheadMode::released, LookAheadMode::exact, LookAheadMode::decayed})
      for (const std::string method : {"pipeoptim", "spectrain-v1", "spectrain-v2", "spike-compensation-lwp", "xpipe"})
        for (int micro_batches : {1, 2, 3}) {
          // Refused where SGD's published direction would read a gradient that is not whole.
          if (method == "xpipe" && mode == LookAheadMode::released && optimizer == "sgd" && micro_batches > 1) continue;
          all.push_back({method, mode, micro_batches, optimizer});
        }
    for (int micro_batches : {4, 6}) all.push_back({"pipedream-2bw", LookAheadMode::paper, micro_batches, optimizer});
    for (int64_t synchronous : {3, 10})
      for (const std::string method : {"pipemare", "pipeoptim", "pipedream", "spike-compensation"})
        all.push_back({method, LookAheadMode::paper, 2, optimizer, synchronous, 9});
    all.push_back({"pipemare", LookAheadMode::paper, 1, optimizer, 0, 9});
    for (const std::string method : {"gpipe", "1f1b-flush", "interleaved", "zero-bubble", "model-parallel"})
      for (int micro_batches : {2, 4}) all.push_back({method, LookAheadMode::paper, micro_batches, optimizer});
  }
  all.push_back({"nadam-async", LookAheadMode::paper, 1, "nadam"});
  all.push_back({"nadam-async", LookAheadMode::paper, 2, "nadam"});
  for (size_t i = 0, ungrouped = all.size(); i < ungrouped; ++i) {
    all.push_back(all[i]);
    all.back().grouped = true;
  }
  return all;
}

}  // namespace

TEST_CASE("thirteen updates are those of the method's formula, in double precision") {
  // Floats are rounded to 6e-8; thirteen updates multiply that, by about twenty at most.
  for (const std::vector<int64_t>& widths : {std::vector<int64_t>{3, 4, 3, 3, 2}, std::vector<int64_t>{1, 1, 1, 1, 2}})
    for (const Case& c : cases()) {
      CAPTURE(widths[0]);
      CAPTURE(c.method);
      CAPTURE(to_string(c.look_ahead));
      CAPTURE(c.micro_batches);
      CAPTURE(c.optimizer);
      CAPTURE(c.synchronous);
      CAPTURE(c.grouped);
      const Result result = both(c, widths);
      CHECK(distance(result.engine, result.formula) < 5e-6);
    }
}

TEST_CASE("the methods differ from each other by far more than the bound of their comparison") {
  const std::vector<int64_t> widths = {3, 4, 3, 3, 2};
  std::vector<Vector> results;
  std::vector<Case> different;
  for (const std::string method : {"vanilla", "pipedream", "pipedream-vertical", "spike-compensation", "pipemare", "xpipe", "gpipe"})
    different.push_back({method});
  for (LookAheadMode mode : {LookAheadMode::paper, LookAheadMode::released, LookAheadMode::exact, LookAheadMode::decayed})
    for (const std::string method : {"pipeoptim", "spectrain-v1", "spectrain-v2", "spike-compensation-lwp"})
      different.push_back({method, mode});
  different.push_back({.method = "pipeoptim", .grouped = true});
  for (const Case& c : different) results.push_back(both(c, widths).formula);
  for (size_t a = 0; a < results.size(); ++a)
    for (size_t b = 0; b < a; ++b) {
      CAPTURE(different[a].method);
      CAPTURE(to_string(different[a].look_ahead));
      CAPTURE(different[b].method);
      CAPTURE(to_string(different[b].look_ahead));
      CHECK(distance(results[a], results[b]) > 1e-4);
    }
}
