// Values that are not finite: where a stage looks for them, and what it does about them.
#include <cmath>

#include "pipeline/run/stage.h"

namespace pipecast {
namespace {

std::string direction(Operation operation) {
  return operation == Operation::forward ? "forward" : operation == Operation::recompute ? "recomputed forward" : "backward";
}

}  // namespace

// So that a mini-batch that spoils the running statistics leaves no trace in them.
void Stage::keep_statistics(const Instruction& i) {
  if (!feed_.training || options_.non_finite != NonFinite::skip) return;
  if (has_loss(i)) copy(options_.device, sums_before_.data(), chunk(i).section.sums(), Section::loss_floats * sizeof(float));
  if (i.micro > 0) return;
  copy(options_.device, statistics_before_.data() + (statistics(i.chunk) - statistics(0)), statistics(i.chunk),
       size_t(chunk(i).section.statistics().total) * sizeof(float));
}

// What a forward has made, before anything else reads it.
void Stage::check_forward(const Instruction& i, int frame) {
  if (!feed_.training) return;
  Chunk& c = chunk(i);
  const Device d = options_.device;
  const PassShape pass = shape(i);
  const bool loss = has_loss(i) && i.operation == Operation::forward;
  for (int v : c.section.outputs()) health_.look_at(c.section.value(frame, v, pass));
  if (has_loss(i)) health_.look_at(c.section.value(frame, prediction_, pass));
  const bool finite = health_.finite();
  if (!finite && options_.non_finite == NonFinite::stop) throw fault_in_forward(i, frame);
  if (options_.non_finite == NonFinite::stop || i.operation == Operation::recompute) return;
  if (!finite) c.spoiled = i.minibatch;
  if (!finite && loss) {
    copy(d, c.section.sums(), sums_before_.data(), Section::loss_floats * sizeof(float));
    for (size_t k = 0; k < c.source.counts().size(); ++k) counts_[k] -= c.source.counts()[k];
  }
  // Other micro-batches of a spoiled one may be joined with it: they leave no trace either.
  if (c.spoiled == i.minibatch)
    copy(d, statistics(i.chunk), statistics_before_.data() + (statistics(i.chunk) - statistics(0)),
         size_t(c.section.statistics().total) * sizeof(float));
}

// What a backward has made, before anything else reads it. Where the update follows, its gradient's square sum says the same. A run that
// goes on in any case asks at the update alone.
void Stage::check_backward(const Backward& b) {
  const Instruction& i = b.pass;
  Chunk& c = chunk(i);
  unchecked_.reset();
  if (options_.non_finite == NonFinite::skip || shape(i).samples == 0) return;
  if (b.half != Half::weight)
    for (const Tensor& gradient : gradients_of(i, 0, c.section.inputs())) health_.look_at(gradient);
  size_t next = position_ + 1;
  if (next < program_->size() && (*program_)[next].operation == Operation::send_gradient) ++next;
  if (next < program_->size() && (*program_)[next].operation == Operation::step) unchecked_ = b;
  else health_.look_at(c.section.parameters().total, weights_->gradient(i.chunk));
  if (!health_.finite()) throw fault_in_backward(b);
}

// An update with a gradient that is not finite is left out.
void Stage::skip_update(const Instruction& i) {
  health_.look_at(weights_->size(), store().latest());
  if (!health_.finite())
    throw Diverged("stage " + std::to_string(options_.index) + " has weights that are not finite before the update of mini-batch " +
                       std::to_string(fault(i).minibatch) +
                       ", which leaving updates out cannot repair; lower --lr, or add --warmup-epochs or --clip-norm",
                   fault(i));
  weights_->skip(i.scale);
  ++skipped_;
}

Fault Stage::fault(const Instruction& i) const {
  return {feed_.first_minibatch + i.minibatch, options_.index, i.micro, direction(i.operation)};
}

// By the forward that has just run, again.
Diverged Stage::fault_in_forward(const Instruction& i, int frame) {
  Chunk& c = chunk(i);
  const PassShape pass = shape(i);
  Search search(health_);
  for (size_t k = 0; k < c.section.fed().size(); ++k)
    if (const Tensor fed = c.section.value(frame, c.section.fed()[k], pass); fed.storage != Storage::int32)
      search.look_at("was given an input '" + c.source.inputs()[k].name + "'", fed);
  PassOptions options = pass_options(i);
  options.replay = true;
  c.section.forward(frame, pass, weights_->read(i), weights_->statistic_binding(i.chunk), options, std::ref(search));
  return search.error(fault(i), options_.micro_batches);
}

// By the backward that has just run, again. The gradient holds it alone then, which does not matter any more.
Diverged Stage::fault_in_backward(const Backward& b) {
  Chunk& c = chunk(b.pass);
  Search search(health_);
  weights_->clear_gradient();
  c.section.backward(b.frame, shape(b.pass), weights_->read(b.pass), weights_->gradient_binding(b.pass.chunk),
                     weights_->statistic_binding(b.pass.chunk), pass_options(b.pass), b.half, std::ref(search));
  return search.error(fault(b.pass), options_.micro_batches);
}

}  // namespace pipecast
