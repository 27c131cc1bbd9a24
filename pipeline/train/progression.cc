#include "pipeline/train/progression.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/error.h"
#include "pipeline/limits.h"

namespace pipecast {

Stops::Stops(const RunOptions& options, int64_t per_epoch) : every_(options.checkpoint_every) {
  // So that none of the products below overflows: an epoch's samples are counted by an int32_t.
  auto in_range = [](const char* what, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most)
      throw UsageError(std::string(what) + " is " + std::to_string(value) + ": give " + std::to_string(least) + " to " +
                       std::to_string(most));
  };
  in_range("the number of epochs", options.epochs, 1, most_epochs);
  in_range("the number of epochs from one evaluation to the next", options.eval_every, 1, most_epochs);
  in_range("the number of epochs without a better evaluation", options.patience, 0, most_epochs);
  in_range("the number of mini-batches between checkpoints", options.checkpoint_every, 0, most_minibatches);
  span_ = std::min(options.eval_every, options.epochs) * per_epoch, end_ = options.epochs * per_epoch;
}

int64_t Stops::after(int64_t minibatch) const {
  auto next = [&](int64_t every) { return every > 0 ? (minibatch / every + 1) * every : end_; };
  return std::min({end_, next(span_), next(every_)});
}

std::vector<int64_t> Stops::intervals() const {
  std::vector<int64_t> all = {span_, end_};
  if (every_ > 0 && every_ < end_) all.push_back(every_);
  return all;
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
