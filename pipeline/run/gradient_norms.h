#pragma once
// Exchanges the square sums of all stages' gradients for one update. Synchronous methods use it to clip by the global norm, and to skip
// updates that are not finite on all stages.
#include <array>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/error.h"

namespace pipecast {

class GradientNorms {
 public:
  explicit GradientNorms(int stages) : stages_(size_t(stages)) {
    for (Round& round : rounds_) round.squares.resize(stages_);
  }

  void put(int stage, int64_t update, double square_sum) {
    std::lock_guard lock(mutex_);
    Round& round = this->round(update);
    if (round.update != update) round.update = update, round.given = 0;
    round.squares[size_t(stage)] = square_sum;
    if (++round.given == stages_) changed_.notify_all();
  }
  bool complete(int64_t update) {
    std::lock_guard lock(mutex_);
    return closed_ || (round(update).update == update && round(update).given == stages_);
  }
  // Waits for all stages. Added up in their order, so that the sum does not depend on who came first.
  double total(int64_t update) {
    std::unique_lock lock(mutex_);
    const Round& round = this->round(update);
    changed_.wait(lock, [&] { return closed_ || (round.update == update && round.given == stages_); });
    if (closed_) throw Error("the neighbouring stage stopped");
    double sum = 0;
    for (double square : round.squares) sum += square;
    return sum;
  }
  // Called after a stage has failed: stages that wait now or call later get an Error.
  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  struct Round {
    int64_t update = -1;
    size_t given = 0;
    std::vector<double> squares;
  };
  // No stage begins update u + 2 before all have given theirs for u + 1, which they do after they have read that of u: two places do.
  Round& round(int64_t update) { return rounds_[size_t(update % 2)]; }

  size_t stages_;
  std::array<Round, 2> rounds_;
  bool closed_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace pipecast
