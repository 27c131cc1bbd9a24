#include "pipeline/stage.h"

#include <algorithm>

#include "layers/softmax_cross_entropy.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t totals_floats = 16;  // loss, hits; the rows after them stay aligned

std::string pass_name(const Instruction& i) {
  return to_string(i.operation) + " of mini-batch " + std::to_string(i.minibatch) + "." + std::to_string(i.micro);
}

// The arena holds one pass at a time: what a stage receives it must use at once, and what it made it must send at once.
void check_order(const Program& program) {
  auto follows = [&](size_t i, Operation what) {
    return i < program.size() && program[i].operation == what && i > 0 && program[i].minibatch == program[i - 1].minibatch &&
           program[i].micro == program[i - 1].micro;
  };
  for (size_t i = 0; i < program.size(); ++i) {
    Operation o = program[i].operation;
    if ((o == Operation::receive_activation && !follows(i + 1, Operation::forward)) ||
        (o == Operation::receive_gradient && !follows(i + 1, Operation::backward)) ||
        (o == Operation::send_activation && !follows(i, Operation::send_activation)) ||
        (o == Operation::send_gradient && !follows(i, Operation::send_gradient)))
      throw UsageError("the program cannot run: " + pass_name(program[i]) + " does not stand next to its forward or backward");
  }
}

}  // namespace

Stage::Stage(const Graph& graph, const StageOptions& options)
    : options_(options),
      section_(options.device, graph, options.first_node, options.last_node, options.batches, options.frames),
      store_(options.device, section_.parameters(), options.predicts) {
  const Device d = options_.device;
  const int64_t n = store_.segments().total;
  const int64_t most = *std::max_element(options_.batches.begin(), options_.batches.end());
  const int states = options_.optimizer->states();
  stash_ = Memory(d, options_.stash_slots * n);
  statistics_ = Memory(d, section_.statistics().total);
  state_ = Memory(d, states * n);
  latest_ = section_.bind_parameters(store_.latest());
  if (store_.other()) other_ = section_.bind_parameters(store_.other());
  for (int slot = 0; slot < options_.stash_slots; ++slot) stashed_.push_back(section_.bind_parameters(stash_.data() + slot * n));
  gradient_ = section_.bind_parameters(store_.gradient());
  statistic_bindings_ = section_.bind_statistics(statistics_.data());
  matrices_ = matrices(store_.segments());
  scratch_ = Memory(d, options_.optimizer->scratch(matrices_));
  buffers_ = {n, store_.latest(), store_.gradient(), {}, nullptr, matrices_, scratch_.data()};
  for (int k = 0; k < states; ++k) buffers_.state[k] = state_.data() + k * n;
  if (store_.other() && n > 0) meter_.emplace(d, n, options_.frames);
  frames_.resize(options_.frames);
  if (options_.index == options_.count - 1) {
    loss_ = Memory(d, totals_floats + 2 * aligned(most));
    labels_ = Memory(d, options_.frames * aligned(most));
    host_labels_.resize(most * options_.micro_batches);
    host_logits_.resize(section_.output(0, 0, most).shape.count());
  }
  rates_.resize(max_look_ahead);
  message_.resize(std::max(section_.inputs().size(), section_.outputs().size()));
}

const Binding& Stage::weights(const Instruction& i) const {
  switch (i.reads) {
    case Reads::latest: return latest_;
    case Reads::predicted: return other_;
    case Reads::stash: return stashed_[size_t(i.slot)];
  }
  return latest_;
}

void Stage::begin(const Program& program, Feed feed) {
  check_order(program);
  program_ = &program;
  position_ = 0;
  feed_ = std::move(feed);
  label_minibatch_ = -1;
  for (InFlight& f : frames_) f = {};
  if (loss_.size()) fill_zero(options_.device, loss_.data(), totals_floats * sizeof(float));
}

bool Stage::ready() const {
  switch ((*program_)[position_].operation) {
    case Operation::receive_activation: return !activations_in || activations_in->can_receive();
    case Operation::receive_gradient: return gradients_in->can_receive();
    case Operation::send_activation: return activations_out->can_send();
    case Operation::send_gradient: return gradients_out->can_send();
    default: return true;
  }
}

int64_t Stage::batch_size(const Instruction& i) const {
  const int64_t whole = feed_.batches->size(feed_.first_minibatch + i.minibatch), parts = feed_.training ? options_.micro_batches : 1;
  return whole * (i.micro + 1) / parts - whole * i.micro / parts;
}

uint64_t Stage::step_key(const Instruction& i) const {
  return uint64_t(feed_.first_minibatch + i.minibatch) * uint64_t(options_.micro_batches) + uint64_t(i.micro);
}

int Stage::take_frame(const Instruction& i) {
  for (size_t f = 0; f < frames_.size(); ++f)
    if (!frames_[f].used) return frames_[f] = {true, {i.minibatch, i.micro}, false}, int(f);
  throw Error("stage " + std::to_string(options_.index) + " has " + std::to_string(frames_.size()) +
              " activation frames and no free one for the " + pass_name(i));
}

int Stage::frame_of(const Instruction& i) {
  for (size_t f = 0; f < frames_.size(); ++f)
    if (frames_[f].used && frames_[f].tag == Tag{i.minibatch, i.micro}) return int(f);
  throw Error("stage " + std::to_string(options_.index) + " holds no activations for the " + pass_name(i));
}

void Stage::advance() {
  const Instruction& i = (*program_)[position_];
  const auto start = Clock::now();
  switch (i.operation) {
    case Operation::receive_activation: receive_activation(i); break;
    case Operation::forward: forward(i); break;
    case Operation::send_activation: send_activation(i); break;
    case Operation::receive_gradient:
      gradients_in->receive(options_.device, {i.minibatch, i.micro}, gradients(section_.outputs(), [&](size_t k) {
                              return section_.output_gradient(frame_of(i), k, batch_size(i));
                            }));
      break;
    case Operation::backward: backward(i); break;
    case Operation::send_gradient:
      gradients_out->send(options_.device, {i.minibatch, i.micro},
                          gradients(section_.inputs(), [&](size_t k) { return section_.input_gradient(k, batch_size(i)); }));
      break;
    case Operation::step: step(); break;
    case Operation::predict:
      buffers_.predicted = store_.other();
      options_.optimizer->predict(options_.device, buffers_, updates_, look_ahead(i.ahead));
      break;
    case Operation::stash:
      copy(options_.device, stash_.data() + i.slot * buffers_.n, store_.latest(), size_t(buffers_.n) * sizeof(float));
      break;
  }
  const bool waits = i.operation == Operation::receive_activation || i.operation == Operation::send_activation ||
                     i.operation == Operation::receive_gradient || i.operation == Operation::send_gradient;
  if (feed_.training && !waits) busy_ += Clock::now() - start;
  ++position_;
}

// The gradients that cross a border: of its values, without the model's input, whose gradient nobody wants.
template <class Place>
std::span<const Tensor> Stage::gradients(const std::vector<int>& values, const Place& place) {
  size_t count = 0;
  for (size_t k = 0; k < values.size(); ++k)
    if (values[k] > 0) message_[count++] = place(k);
  return {message_.data(), count};
}

void Stage::receive_activation(const Instruction& i) {
  const int frame = take_frame(i);
  const int64_t batch = batch_size(i);
  if (activations_in) {
    for (size_t k = 0; k < section_.inputs().size(); ++k) message_[k] = section_.input(frame, k, batch);
    return activations_in->receive(options_.device, {i.minibatch, i.micro}, {message_.data(), section_.inputs().size()});
  }
  if (i.micro == 0) images_ = feed_.loader->next();
  Tensor input = section_.input(frame, 0, batch);
  if (batch == 0) return;
  copy(options_.device, input.data, images_.data(), size_t(input.shape.count()) * sizeof(float));
  synchronize(options_.device);
  images_ = images_.subspan(size_t(input.shape.count()));
}

void Stage::forward(const Instruction& i) {
  const int frame = frame_of(i);
  const int64_t batch = batch_size(i);
  const Device d = options_.device;
  if (batch > 0) section_.forward(frame, batch, weights(i), statistic_bindings_, {feed_.training, options_.seed, step_key(i)});
  if (feed_.training && i.reads == Reads::predicted && i.micro == 0 && meter_) {
    meter_->at_forward(d, frame, store_.other(), store_.latest());
    frames_[frame].measured = true;
  }
  if (activations_out) return;

  const int64_t minibatch = feed_.first_minibatch + i.minibatch, most = labels_.size() / options_.frames;
  if (label_minibatch_ != minibatch) feed_.batches->labels(minibatch, host_labels_.data()), label_minibatch_ = minibatch;
  const int64_t parts = feed_.training ? options_.micro_batches : 1;
  auto* labels = reinterpret_cast<int32_t*>(labels_.data() + frame * most);
  const Tensor logits = section_.output(frame, 0, batch);
  if (batch > 0) {
    copy(d, labels, host_labels_.data() + feed_.batches->size(minibatch) * i.micro / parts, size_t(batch) * sizeof(int32_t));
    softmax_cross_entropy_forward(d, batch, logits.shape.c, logits.data, labels, feed_.training ? options_.label_smoothing : 0,
                                  loss_.data() + totals_floats, loss_.data() + totals_floats + aligned(most), loss_.data());
  }
  if (feed_.on_logits) {
    copy(d, host_logits_.data(), logits.data, size_t(logits.shape.count()) * sizeof(float));
    synchronize(d);
    feed_.on_logits({host_logits_.data(), logits.shape});
  }
  if (!feed_.training) frames_[frame].used = false;
  if (feed_.on_minibatch && i.micro == parts - 1) feed_.on_minibatch(i.minibatch);
}

void Stage::send_activation(const Instruction& i) {
  const int frame = frame_of(i);
  const int64_t batch = batch_size(i);
  for (size_t k = 0; k < section_.outputs().size(); ++k) message_[k] = section_.output(frame, k, batch);
  activations_out->send(options_.device, {i.minibatch, i.micro}, {message_.data(), section_.outputs().size()});
  if (!feed_.training) frames_[frame].used = false;
}

void Stage::backward(const Instruction& i) {
  const int frame = frame_of(i);
  const int64_t batch = batch_size(i);
  const Device d = options_.device;
  if (gradient_is_used_) fill_zero(d, store_.gradient(), size_t(buffers_.n) * sizeof(float)), gradient_is_used_ = false;
  if (!activations_out && batch > 0) {
    const Tensor logits = section_.output(frame, 0, batch);
    const int64_t most = labels_.size() / options_.frames;
    softmax_cross_entropy_backward(d, batch, logits.shape.c, logits.data, reinterpret_cast<int32_t*>(labels_.data() + frame * most),
                                   options_.label_smoothing, 1.f / float(feed_.batches->size(feed_.first_minibatch + i.minibatch)),
                                   section_.output_gradient(frame, 0, batch).data);
  }
  if (frames_[frame].measured) meter_->at_backward(d, frame, store_.latest());
  if (batch > 0) section_.backward(frame, batch, weights(i), gradient_, statistic_bindings_, {feed_.training, options_.seed, step_key(i)});
  frames_[frame].used = false;
}

LookAhead Stage::look_ahead(int ahead) {
  for (int j = 0; j < ahead; ++j) rates_[j] = options_.schedule.at(updates_ + j, feed_.updates_per_epoch);
  return {options_.look_ahead, {rates_.data(), size_t(ahead)}};
}

// A prediction that stands directly after the step is written in the same pass over the buffers.
void Stage::step() {
  const bool predicts = position_ + 1 < program_->size() && (*program_)[position_ + 1].operation == Operation::predict;
  const float rate = options_.schedule.at(updates_, feed_.updates_per_epoch);
  ++updates_;
  buffers_.predicted = predicts ? store_.other() : nullptr;
  options_.optimizer->step(options_.device, buffers_, {updates_, rate},
                           predicts ? look_ahead((*program_)[position_ + 1].ahead) : LookAhead{});
  gradient_is_used_ = true;
  if (predicts) ++position_;
}

StageReport Stage::report() {
  StageReport report{busy_.count(), meter_ ? meter_->take(options_.device) : PredictionError{}};
  busy_ = {};
  return report;
}

LossTotals Stage::totals() {
  float totals[2] = {};
  if (loss_.size()) copy(options_.device, totals, loss_.data(), sizeof totals);
  synchronize(options_.device);
  return {totals[0], totals[1]};
}

Stage::MemoryUse Stage::memory() const {
  return {store_.segments().total * store_.copies(), stash_.size(),          store_.segments().total, state_.size() + scratch_.size(),
          section_.frame_floats() * options_.frames, section_.arena_floats()};
}

}  // namespace pipecast
