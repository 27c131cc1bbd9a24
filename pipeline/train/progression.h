#pragma once
// The position of a run and the points at which it drains: numbers only, no trainer and no files.
#include <cstdint>
#include <vector>

#include "pipeline/train/run_options.h"

namespace pipecast {

// The points at which the pipeline drains: evaluations and checkpoints. They do not depend on interruptions. Stop n means "after n
// mini-batches of the whole run".
class Stops {
 public:
  // per_epoch: mini-batches. Throws UsageError for numbers that are out of range.
  Stops(const RunOptions&, int64_t per_epoch);
  int64_t end() const { return end_; }     // of the run
  int64_t after(int64_t minibatch) const;  // the next stop behind it, at most end()
  bool evaluates(int64_t stop) const;      // whether the test data is evaluated at this stop
  bool stops(int64_t minibatch) const;     // whether this is a stop; 0 is one
  // Every stop but the end is a multiple of one of these, and so is the end.
  std::vector<int64_t> intervals() const;

 private:
  int64_t span_, every_, end_;
};

struct Mark {
  int64_t samples = 0;
  double counted = 0;  // the denominator of the mean loss: samples, or tokens; see Layer::means()
  double loss = 0;     // the sum of the losses
};

// What a run must remember at a drain, beside the trainer's state. It is in a checkpoint's description.
struct Progression {
  int64_t minibatches = 0;  // trained
  // Since the last evaluation.
  Mark trained, step, epoch;  // so far, at the last logged step, at the end of the last epoch
  double hits = 0, hits_counted = 0;  // numerator and denominator of the accuracy
  double epoch_seconds = 0;
  double seconds = 0;                       // of the run
  double test_loss = 0, test_accuracy = 0;  // of the last evaluation; the accuracy is NaN where the loss reports none
  int64_t best = 0;                         // the stop with the best test accuracy (or loss, without accuracy); 0: none yet
  double best_accuracy = 0;                 // its accuracy, or minus its loss

  // Takes an evaluation's result and begins the counts since it anew.
  void evaluated(double loss, double accuracy);
  // The mean loss since a mark, which moves here.
  double loss_since(Mark&) const;

  // Calls visit(name, value) for each value.
  template <class Visit>
  void each(const Visit& visit) {
    visit("minibatches", minibatches);
    visit("samples", trained.samples), visit("counted", trained.counted), visit("loss", trained.loss);
    visit("hits", hits), visit("hits_counted", hits_counted);
    visit("step_samples", step.samples), visit("step_counted", step.counted), visit("step_loss", step.loss);
    visit("epoch_samples", epoch.samples), visit("epoch_counted", epoch.counted), visit("epoch_loss", epoch.loss);
    visit("epoch_seconds", epoch_seconds);
    visit("seconds", seconds);
    visit("test_loss", test_loss), visit("test_accuracy", test_accuracy);
    visit("best", best), visit("best_accuracy", best_accuracy);
  }
};

}  // namespace pipecast
