#include "pipeline/train/progression.h"

#include <algorithm>
#include <cmath>

namespace pipecast {

Stops::Stops(const RunOptions& options, int64_t per_epoch)
    : span_(std::min(options.eval_every, options.epochs) * per_epoch), every_(options.checkpoint_every), end_(options.epochs * per_epoch) {}

int64_t Stops::after(int64_t minibatch) const {
  auto next = [&](int64_t every) { return every > 0 ? (minibatch / every + 1) * every : end_; };
  return std::min({end_, next(span_), next(every_)});
}

bool Stops::evaluates(int64_t stop) const { return stop % span_ == 0 || stop == end_; }

bool Stops::stops(int64_t minibatch) const { return minibatch == 0 || after(minibatch - 1) == minibatch; }

void Progression::evaluated(double loss, double accuracy) {
  test_loss = loss, test_accuracy = accuracy;
  const double score = std::isnan(accuracy) ? -loss : accuracy;
  if (best == 0 || score > best_accuracy) best = minibatches, best_accuracy = score;
  trained = step = epoch = {};
  hits = hits_counted = epoch_seconds = 0;
}

double Progression::loss_since(Mark& mark) const {
  const double loss = (trained.loss - mark.loss) / (trained.counted - mark.counted);
  mark = trained;
  return loss;
}

}  // namespace pipecast
