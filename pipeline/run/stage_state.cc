// What a stage tells of itself, and what of it goes into a checkpoint.
#include <algorithm>
#include <utility>

#include "pipeline/run/stage.h"

namespace pipecast {

StageReport Stage::report() {
  StageReport report{busy_.count(), meter_ ? meter_->take(options_.device) : PredictionError{}, std::exchange(skipped_, 0)};
  busy_ = {};
  return report;
}

LossTotals Stage::totals() {
  std::array<float, LossTotals::most> sums = {};
  if (const float* from = chunks_.back()->section.sums()) copy(options_.device, sums.data(), from, sizeof sums);
  synchronize(options_.device);
  LossTotals totals{.counts = counts_};
  std::copy(sums.begin(), sums.end(), totals.sums.begin());
  return totals;
}

Stage::MemoryUse Stage::memory() const {
  const int64_t weights = weights_->size();
  MemoryUse use{weights * store().copies(), weights_->stash_floats(), weights, weights_->state_floats(), 0, 0};
  for (const auto& chunk : chunks_) {
    const SectionPlan& plan = chunk->section.plan();
    use.frames += plan.frame * int64_t(chunk->frames.count()) + chunk->inputs.size();
    use.arena += plan.arena + plan.shared + chunk->source.memory();
  }
  return use;
}

SafeTensors Stage::save() const {
  SafeTensors to;
  weights_->save(to, {skipped_, square_sum_});
  if (meter_) {
    FileTensor& sums = to.tensors["prediction"] = {"F32", {2}, {}};
    sums.bytes.resize(2 * sizeof(float));
    copy(options_.device, sums.bytes.data(), meter_->sums(), sums.bytes.size());
  }
  synchronize(options_.device);
  return to;
}

void Stage::restore(const std::vector<SafeTensors>& stages) {
  const SafeTensors& own = weights_->own_checkpoint(stages);
  const StageCounters counters = weights_->restore(stages, own);
  skipped_ = counters.skipped, square_sum_ = counters.square_sum;
  const std::span<const SafeTensors> of_stage(&own, 1);
  if (meter_ && find_saved(of_stage, "prediction"))
    copy(options_.device, meter_->sums(), saved(of_stage, "prediction", "F32", {2}).bytes.data(), 2 * sizeof(float));
  synchronize(options_.device);
}

}  // namespace pipecast
