#include "pipeline/run/stage.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "engine/round.h"
#include "layers/softmax_cross_entropy.h"
#include "optim/history.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t totals_floats = 16;  // loss, hits; the rows after them stay aligned

std::string pass_name(const Instruction& i) { return to_string(i.operation) + " of " + to_string(i.tag()); }

std::string direction(Operation operation) {
  return operation == Operation::forward ? "forward" : operation == Operation::recompute ? "recomputed forward" : "backward";
}

// A tensor of a checkpoint from the stage that had it; null where none had.
const FileTensor* find_saved(std::span<const SafeTensors> stages, const std::string& name) {
  for (const SafeTensors& stage : stages)
    if (const auto found = stage.tensors.find(name); found != stage.tensors.end()) return &found->second;
  return nullptr;
}

// The same, as it must be.
const FileTensor& saved(std::span<const SafeTensors> stages, const std::string& name, const char* type, const std::vector<int64_t>& shape) {
  const FileTensor* found = find_saved(stages, name);
  if (!found) throw UsageError("the checkpoint has no tensor '" + name + "': it is of another model or optimizer");
  if (found->type != type || found->shape != shape)
    throw UsageError("the checkpoint's tensor '" + name + "' has another type or shape: it is of another model");
  return *found;
}

}  // namespace

Stage::Stage(const Graph& graph, const StageOptions& options) : options_(options), health_(options.device) {
  const Device d = options_.device;
  const int64_t most = *std::max_element(options_.batches.begin(), options_.batches.end());
  const int states = options_.optimizer->states();
  Segments parameters;
  int64_t statistics = 0;
  size_t border = 0;
  int in_flight = 0;
  for (const ChunkOptions& c : options_.chunks) {
    chunks_.push_back({Section(d, graph, c.first_node, c.last_node, options_.batches, c.frames, options_.splits_backward)});
    Chunk& chunk = chunks_.back();
    const Section& section = chunk.section;
    chunk.parameters = parameters.total, chunk.statistics = statistics;
    for (const ParameterSpec& spec : section.parameters().specs) parameters.add(spec);
    statistics += section.statistics().total;
    chunk.frames.resize(size_t(c.frames)), chunk.kept.resize(size_t(c.inputs));
    for (size_t k = 0; k < section.inputs().size(); ++k) chunk.input_floats += aligned(section.input(0, k, most).floats());
    chunk.inputs = Memory(d, c.inputs * chunk.input_floats);
    border = std::max({border, section.inputs().size(), section.outputs().size()});
    in_flight += c.frames + c.inputs;
  }
  if (options_.cuda_graphs) replays_ = Replays<PassKey>(make_recorder(d));
  store_ = ParameterStore(d, parameters, options_.predicts);
  const int64_t n = parameters.total;
  stash_ = Memory(d, options_.stash_slots * n);
  statistics_ = Memory(d, statistics);
  if (options_.non_finite == NonFinite::skip) statistics_before_ = Memory(d, statistics), totals_before_ = Memory(d, totals_floats);
  for (Chunk& chunk : chunks_) {
    const Section& section = chunk.section;
    chunk.latest = section.bind_parameters(store_.latest() + chunk.parameters);
    if (store_.other()) chunk.other = section.bind_parameters(store_.other() + chunk.parameters);
    for (int slot = 0; slot < options_.stash_slots; ++slot)
      chunk.stashed.push_back(section.bind_parameters(stash_.data() + slot * n + chunk.parameters));
    chunk.gradient = section.bind_parameters(store_.gradient() + chunk.parameters);
    chunk.statistic_bindings = section.bind_statistics(statistics_.data() + chunk.statistics);
  }

  state_ = Memory(d, states * n);
  matrices_ = matrices(store_.segments());
  scratch_ = Memory(d, options_.optimizer->scratch(matrices_));
  buffers_ = {n, store_.latest(), store_.gradient(), {}, nullptr, matrices_, scratch_.data()};
  for (int k = 0; k < states; ++k) buffers_.state[size_t(k)] = state_.data() + k * n;
  if (options_.looks_back) average_ = Memory(d, n);
  if (store_.other() && n > 0) meter_.emplace(d, n, in_flight), measured_.resize(size_t(in_flight));
  if (options_.index == options_.count - 1) {
    loss_ = Memory(d, totals_floats + 2 * aligned(most));
    labels_ = Memory(d, int64_t(chunks_.back().frames.size()) * aligned(most));
    host_labels_ = HostMemory(d, most * options_.micro_batches);
    labelled_ = Event(d);
    const Tensor logits = chunks_.back().section.output(0, 0, most);
    host_logits_.resize(size_t(logits.shape.count()));
    if (d.storage == Storage::bf16) host_rounded_logits_.resize(size_t(logits.shape.count()));
  }
  if (options_.index == 0) uploaded_ = Event(d);
  if (options_.index == 0 && d.storage == Storage::bf16) images_in_fp32_ = Memory(d, chunks_[0].section.input(0, 0, most).shape.count());
  rates_.resize(max_look_ahead);
  message_.resize(border);
}

int Stage::frames() const {
  int frames = 0;
  for (const Chunk& chunk : chunks_) frames += int(chunk.frames.size());
  return frames;
}

const Binding& Stage::weights(const Instruction& i) const {
  const Chunk& chunk = chunks_[size_t(i.chunk)];
  switch (i.reads) {
    case Reads::latest: return chunk.latest;
    case Reads::predicted: return chunk.other;
    case Reads::stash: return chunk.stashed[size_t(i.slot)];
  }
  return chunk.latest;
}

const float* Stage::flat_weights(const Instruction& i) const {
  switch (i.reads) {
    case Reads::latest: return store_.latest();
    case Reads::predicted: return store_.other();
    case Reads::stash: return stash_.data() + i.slot * buffers_.n;
  }
  return store_.latest();
}

void Stage::begin(const Program& program, Feed feed) {
  program_ = &program;
  position_ = 0;
  feed_ = std::move(feed);
  label_minibatch_ = -1;
  for (Chunk& chunk : chunks_) {
    std::fill(chunk.frames.begin(), chunk.frames.end(), InFlight{});
    std::fill(chunk.kept.begin(), chunk.kept.end(), InFlight{});
    chunk.spoiled = -1;
  }
  std::fill(measured_.begin(), measured_.end(), InFlight{});
  if (loss_.size()) fill_zero(options_.device, loss_.data(), totals_floats * sizeof(float));
  left_out_ = 0;
  if (!feed_.training) return;
  const auto is_step = [](const Instruction& i) { return i.operation == Operation::step; };
  square_sums_.assign(size_t(1 + std::count_if(program.begin(), program.end(), is_step)), std::nan(""));
  square_sums_[0] = square_sum_;
  first_update_ = updates_, norm_of_ = -1;
}

bool Stage::ready() {
  const Instruction& i = (*program_)[position_];
  switch (i.operation) {
    case Operation::receive_activation: return first(i.chunk) || activations_in->can_receive();
    case Operation::receive_gradient: return gradients_in->can_receive();
    case Operation::send_activation: return activations_out->can_send();
    case Operation::send_gradient: return gradients_out->can_send();
    case Operation::step:
      if (!options_.all_norms) return true;
      contribute_norm(i);
      return options_.all_norms->complete(updates_);
    default: return true;
  }
}

Tag Stage::next_tag(const Instruction& i) const { return {i.minibatch, i.micro, i.chunk + (options_.index == options_.count - 1 ? 1 : 0)}; }

Tag Stage::previous_tag(const Instruction& i) const { return {i.minibatch, i.micro, i.chunk - (options_.index == 0 ? 1 : 0)}; }

int64_t Stage::first_sample(const Instruction& i) const {
  return feed_.batches->size(feed_.first_minibatch + i.minibatch) * i.micro / options_.micro_batches;
}

int64_t Stage::batch_size(const Instruction& i) const {
  Instruction next = i;
  ++next.micro;
  return first_sample(next) - first_sample(i);
}

PassOptions Stage::pass_options(const Instruction& i) const {
  PassOptions pass;
  pass.training = feed_.training, pass.seed = options_.seed;
  pass.step = uint64_t(feed_.first_minibatch + i.minibatch) * uint64_t(options_.micro_batches) + uint64_t(i.micro);
  pass.deferred = options_.deferred_batch_norm, pass.samples_before = first_sample(i);
  pass.replay = i.operation == Operation::recompute;
  return pass;
}

int Stage::take(std::vector<InFlight>& places, const Instruction& i) {
  for (size_t f = 0; f < places.size(); ++f)
    if (!places[f].used) return places[f] = {true, i.tag(), true}, int(f);
  throw Error("stage " + std::to_string(options_.index) + " has " + std::to_string(places.size()) +
              " activation frames and no free one for the " + pass_name(i));
}

int Stage::find(const std::vector<InFlight>& places, const Instruction& i) const {
  for (size_t f = 0; f < places.size(); ++f)
    if (places[f].used && places[f].tag == i.tag()) return int(f);
  throw Error("stage " + std::to_string(options_.index) + " holds no activations for the " + pass_name(i));
}

void Stage::advance() {
  const size_t at = position_;
  const Instruction& i = (*program_)[at];
  const auto start = Clock::now();
  if (feed_.track) feed_.track->begin(), wait_for_others(i);
  const Device d = options_.device;
  switch (i.operation) {
    case Operation::receive_activation: receive_activation(i); break;
    case Operation::forward: forward(i); break;
    case Operation::send_activation: send_activation(i); break;
    case Operation::receive_gradient:
      gradients_in->receive(d, i.tag(), gradients(chunk(i).section.outputs(), [&](size_t k) {
                              return chunk(i).section.output_gradient(frame_of(i), k, batch_size(i));
                            }));
      break;
    case Operation::recompute: recompute(i); break;
    case Operation::backward: backward(i, Half::both); break;
    case Operation::backward_input: backward(i, Half::input); break;
    case Operation::backward_weight: backward(i, Half::weight); break;
    case Operation::send_gradient:
      gradients_out->send(d, previous_tag(i), gradients(chunk(i).section.inputs(), [&](size_t k) {
                            return chunk(i).section.input_gradient(k, batch_size(i));
                          }));
      break;
    case Operation::step: step(i); break;
    case Operation::predict: predict(i.ahead); break;
    case Operation::stash:
      copy(d, stash_.data() + i.slot * buffers_.n, flat_weights({.reads = i.reads}), size_t(buffers_.n) * sizeof(float));
      break;
  }
  const bool waits = i.operation == Operation::receive_activation || i.operation == Operation::send_activation ||
                     i.operation == Operation::receive_gradient || i.operation == Operation::send_gradient;
  if (feed_.training && !waits) busy_ += Clock::now() - start;
  if (feed_.track) feed_.track->finish(i, position_ > at ? &(*program_)[position_] : nullptr, updates_);
  ++position_;
}

// For the track, in which an instruction does not begin before it can go on.
void Stage::wait_for_others(const Instruction& i) {
  if (ready()) return;
  switch (i.operation) {
    case Operation::receive_activation: activations_in->wait_to_receive(); break;
    case Operation::receive_gradient: gradients_in->wait_to_receive(); break;
    case Operation::send_activation: activations_out->wait_to_send(); break;
    case Operation::send_gradient: gradients_out->wait_to_send(); break;
    case Operation::step: options_.all_norms->total(updates_); break;
    default: break;
  }
  feed_.track->add(Spent::wait, i, updates_);
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
  const int frame = take(chunk(i).frames, i);
  const Section& section = chunk(i).section;
  const int64_t batch = batch_size(i);
  if (!first(i.chunk)) {
    for (size_t k = 0; k < section.inputs().size(); ++k) message_[k] = section.input(frame, k, batch);
    return activations_in->receive(options_.device, i.tag(), {message_.data(), section.inputs().size()});
  }
  if (i.micro == 0) {
    uploaded_.wait(), images_ = feed_.loader->next();
    if (feed_.track) feed_.track->add(Spent::wait, i, updates_);
  }
  Tensor input = section.input(frame, 0, batch);
  if (batch == 0) return;
  const int64_t values = input.shape.count();
  const bool rounds = input.storage == Storage::bf16;
  copy(options_.device, rounds ? images_in_fp32_.data() : input.data, images_.data(), size_t(values) * sizeof(float));
  uploaded_.set(options_.device);
  if (rounds) round(options_.device, values, images_in_fp32_.data(), input.as<Bfloat16>());
  images_ = images_.subspan(size_t(values));
}

void Stage::load_labels(const Instruction& i, int frame) {
  const int64_t minibatch = feed_.first_minibatch + i.minibatch, most = labels_.size() / int64_t(chunk(i).frames.size());
  if (label_minibatch_ != minibatch) {
    labelled_.wait();
    feed_.batches->labels(minibatch, host_labels());
    label_minibatch_ = minibatch;
  }
  copy(options_.device, labels_.data() + frame * most, host_labels() + first_sample(i), size_t(batch_size(i)) * sizeof(int32_t));
  labelled_.set(options_.device);
}

// Of a pass, between its frame and a place for those that will be recomputed.
void Stage::copy_inputs(const Instruction& i, int frame, int slot, bool to_slot) {
  const Chunk& c = chunk(i);
  float* kept = c.inputs.data() + slot * c.input_floats;
  for (size_t k = 0; k < c.section.inputs().size(); ++k) {
    const Tensor input = c.section.input(frame, k, batch_size(i));
    if (to_slot) copy(options_.device, kept, input.data, input.bytes());
    else copy(options_.device, input.data, kept, input.bytes());
    kept += aligned(input.floats());
  }
}

// The meter looks at one pass of a mini-batch.
void Stage::measure(const Instruction& i) {
  if (!meter_ || !feed_.training || i.micro > 0 || i.chunk > 0) return;
  if (i.operation == Operation::forward) {
    meter_->at_forward(options_.device, take(measured_, i), flat_weights(i), store_.latest());
  } else {
    const int place = find(measured_, i);
    meter_->at_backward(options_.device, place, flat_weights(i), store_.latest());
    measured_[size_t(place)].used = false;
  }
}

Stage::PassKey Stage::key(const Instruction& i, int frame) const {
  return {i.operation, feed_.training, i.chunk, frame, &weights(i), batch_size(i)};
}

void Stage::section_forward(const Instruction& i, int frame) {
  replays_.run(key(i, frame), [&] {
    Chunk& c = chunk(i);
    c.section.forward(frame, batch_size(i), weights(i), c.statistic_bindings, pass_options(i));
  });
}

void Stage::forward(const Instruction& i) {
  Chunk& c = chunk(i);
  const int frame = frame_of(i);
  const int64_t batch = batch_size(i);
  const Device d = options_.device;
  if (!i.keep) copy_inputs(i, frame, take(c.kept, i), true);
  c.frames[size_t(frame)].keep = i.keep && feed_.training;
  keep_statistics(i);
  if (batch > 0) {
    section_forward(i, frame);
    if (last(i.chunk)) add_loss(i, frame);
    check_forward(i, frame);
  }
  measure(i);
  if (!last(i.chunk)) return;

  if (feed_.on_logits) {
    const Tensor logits = c.section.output(frame, 0, batch);
    const bool rounded = logits.storage == Storage::bf16;
    copy(d, rounded ? static_cast<void*>(host_rounded_logits_.data()) : host_logits_.data(), logits.data, logits.bytes());
    synchronize(d);
    if (rounded) std::copy_n(host_rounded_logits_.begin(), logits.shape.count(), host_logits_.begin());
    feed_.on_logits({host_logits_.data(), logits.shape});
  }
  if (!c.frames[size_t(frame)].keep) c.frames[size_t(frame)].used = false;
  if (feed_.on_minibatch && i.micro == options_.micro_batches - 1) feed_.on_minibatch(i.minibatch);
}

// The loss of a pass, added to the totals.
void Stage::add_loss(const Instruction& i, int frame) {
  const Chunk& c = chunk(i);
  const Device d = options_.device;
  const int64_t most = labels_.size() / int64_t(c.frames.size());
  const Tensor logits = c.section.output(frame, 0, batch_size(i));
  load_labels(i, frame);
  if (totals_before_.size()) copy(d, totals_before_.data(), loss_.data(), totals_floats * sizeof(float));
  softmax_cross_entropy_forward(d, logits, reinterpret_cast<int32_t*>(labels_.data() + frame * most),
                                feed_.training ? options_.label_smoothing : 0, loss_.data() + totals_floats,
                                loss_.data() + totals_floats + most, loss_.data());
}

void Stage::send_activation(const Instruction& i) {
  Chunk& c = chunk(i);
  const int frame = frame_of(i);
  const int64_t batch = batch_size(i);
  for (size_t k = 0; k < c.section.outputs().size(); ++k) message_[k] = c.section.output(frame, k, batch);
  activations_out->send(options_.device, next_tag(i), {message_.data(), c.section.outputs().size()});
  if (!c.frames[size_t(frame)].keep) c.frames[size_t(frame)].used = false;
}

// The forward of a pass again, into a frame, from its input.
void Stage::recompute(const Instruction& i) {
  Chunk& c = chunk(i);
  const int slot = find(c.kept, i), frame = take(c.frames, i);
  copy_inputs(i, frame, slot, false);
  c.kept[size_t(slot)].used = false;
  if (batch_size(i) == 0) return;
  section_forward(i, frame);
  check_forward(i, frame);
  if (last(i.chunk)) load_labels(i, frame);
}

void Stage::backward(const Instruction& i, Half half) {
  Chunk& c = chunk(i);
  const int frame = frame_of(i);
  const int64_t batch = batch_size(i);
  const Device d = options_.device;
  if (gradient_is_used_) fill_zero(d, store_.gradient(), size_t(buffers_.n) * sizeof(float)), gradient_is_used_ = false;
  if (half != Half::weight) {
    if (last(i.chunk) && batch > 0) {
      const int64_t most = labels_.size() / int64_t(c.frames.size());
      softmax_cross_entropy_backward(d, c.section.output(frame, 0, batch), reinterpret_cast<int32_t*>(labels_.data() + frame * most),
                                     options_.label_smoothing, 1.f / float(feed_.batches->size(feed_.first_minibatch + i.minibatch)),
                                     c.section.output_gradient(frame, 0, batch));
    }
    measure(i);
  }
  if (batch > 0)
    replays_.run(key(i, frame),
                 [&] { c.section.backward(frame, batch, weights(i), c.gradient, c.statistic_bindings, pass_options(i), half); });
  check_backward({i, half, frame});
  if (half != Half::input) c.frames[size_t(frame)].used = false;
}

LookAhead Stage::look_ahead(int ahead) {
  for (int j = 0; j < ahead; ++j) rates_[size_t(j)] = rate_scale_ * options_.schedule.at(updates_ + j, feed_.updates_per_epoch);
  return {options_.look_ahead, {rates_.data(), size_t(ahead)}, gradient_scale_};
}

void Stage::predict(int ahead) {
  buffers_.predicted = store_.other();
  if (ahead >= 0) return options_.optimizer->predict(options_.device, buffers_, updates_, look_ahead(ahead));
  // The mean change of the weights is taken over every update: where some have not been seen, it begins anew.
  if (updates_ == 0 || updates_ > looked_back_ + 1)
    copy(options_.device, average_.data(), store_.latest(), size_t(buffers_.n) * sizeof(float));
  looked_back_ = updates_;
  look_back(options_.device, buffers_.n, store_.latest(), average_.data(), store_.other(), -ahead);
}

// The square sum of the gradient, once per update.
void Stage::contribute_norm(const Instruction& i) {
  if (norm_of_ == updates_) return;
  norm_of_ = updates_;
  if (feed_.track) feed_.track->begin();
  square_sum_ = health_.square_sum(buffers_.n, store_.gradient());
  if (options_.non_finite == NonFinite::stop && !std::isfinite(square_sum_))
    throw unchecked_ ? fault_in_backward(*unchecked_) : Search(health_).error(fault(i), options_.micro_batches);
  square_sums_[size_t(1 + updates_ - first_update_)] = square_sum_;
  if (feed_.track) feed_.track->add(Spent::norm, i, updates_);
  if (options_.all_norms) options_.all_norms->put(options_.index, updates_, square_sum_);
}

// A prediction that stands directly after the step is written in the same pass over the buffers.
void Stage::step(const Instruction& i) {
  Update update{.t = updates_ + 1, .rate = i.scale * options_.schedule.at(updates_, feed_.updates_per_epoch), .late = i.ahead};
  contribute_norm(i);
  const double norm = std::sqrt(options_.all_norms ? options_.all_norms->total(updates_) : square_sum_);
  if (!std::isfinite(norm)) return skip_update(i);
  if (options_.clip_norm > 0 && norm > options_.clip_norm) update.gradient_scale = float(options_.clip_norm / norm);
  ++updates_;
  rate_scale_ = i.scale, gradient_scale_ = update.gradient_scale;
  const Instruction* next = position_ + 1 < program_->size() ? &(*program_)[position_ + 1] : nullptr;
  const bool predicts = next && next->operation == Operation::predict && next->ahead >= 0;
  buffers_.predicted = predicts ? store_.other() : nullptr;
  options_.optimizer->step(options_.device, buffers_, update, predicts ? look_ahead(next->ahead) : LookAhead{});
  gradient_is_used_ = true;
  if (predicts) ++position_;
}

// Weights and state stay as they are. The update counts: versions, learning rates and look-aheads are those that the program is made for.
void Stage::skip_update(const Instruction& i) {
  health_.look_at(buffers_.n, store_.latest());
  if (!health_.finite())
    throw Diverged("stage " + std::to_string(options_.index) + " has weights that are not finite before the update of mini-batch " +
                       std::to_string(fault(i).minibatch) +
                       ", which leaving updates out cannot repair; lower --lr, or add --warmup-epochs or --clip-norm",
                   fault(i));
  fill_zero(options_.device, store_.gradient(), size_t(buffers_.n) * sizeof(float));  // look-aheads may read it
  ++updates_, ++skipped_;
  rate_scale_ = i.scale, gradient_scale_ = 1;
  gradient_is_used_ = true;
}

// So that a mini-batch that spoils the running statistics leaves no trace in them.
void Stage::keep_statistics(const Instruction& i) {
  if (!feed_.training || i.micro > 0 || !statistics_before_.size()) return;
  const Chunk& c = chunk(i);
  copy(options_.device, statistics_before_.data() + c.statistics, statistics_.data() + c.statistics,
       size_t(c.section.statistics().total) * sizeof(float));
}

// What a forward has made, before anybody reads it.
void Stage::check_forward(const Instruction& i, int frame) {
  if (!feed_.training) return;
  Chunk& c = chunk(i);
  const Device d = options_.device;
  const int64_t batch = batch_size(i);
  const bool loss = last(i.chunk) && i.operation == Operation::forward;
  for (size_t k = 0; k < c.section.outputs().size(); ++k) health_.look_at(c.section.output(frame, k, batch));
  if (loss) health_.look_at(batch, loss_.data() + totals_floats);
  const bool finite = health_.finite();
  if (!finite && options_.non_finite == NonFinite::stop) throw fault_in_forward(i, frame);
  if (options_.non_finite == NonFinite::stop || i.operation == Operation::recompute) return;
  if (!finite) c.spoiled = i.minibatch;
  if (!finite && loss) copy(d, loss_.data(), totals_before_.data(), totals_floats * sizeof(float)), left_out_ += batch;
  // Other micro-batches of a spoiled one may be joined with it: they leave no trace either.
  if (c.spoiled == i.minibatch)
    copy(d, statistics_.data() + c.statistics, statistics_before_.data() + c.statistics,
         size_t(c.section.statistics().total) * sizeof(float));
}

// What a backward has made, before anybody reads it. Where the update follows, its gradient's square sum says the same. A run that goes on
// whatever comes asks at the update alone.
void Stage::check_backward(const Backward& b) {
  const Instruction& i = b.pass;
  Chunk& c = chunk(i);
  const int64_t batch = batch_size(i);
  unchecked_.reset();
  if (options_.non_finite == NonFinite::skip || batch == 0) return;
  if (b.half != Half::weight)
    for (const Tensor& gradient : gradients(c.section.inputs(), [&](size_t k) { return c.section.input_gradient(k, batch); }))
      health_.look_at(gradient);
  size_t next = position_ + 1;
  if (next < program_->size() && (*program_)[next].operation == Operation::send_gradient) ++next;
  if (next < program_->size() && (*program_)[next].operation == Operation::step) unchecked_ = b;
  else health_.look_at(c.section.parameters().total, store_.gradient() + c.parameters);
  if (!health_.finite()) throw fault_in_backward(b);
}

Fault Stage::fault(const Instruction& i) const {
  return {feed_.first_minibatch + i.minibatch, options_.index, i.micro, direction(i.operation)};
}

// By the forward that has just run, again.
Diverged Stage::fault_in_forward(const Instruction& i, int frame) {
  Chunk& c = chunk(i);
  const int64_t batch = batch_size(i);
  Search search(health_);
  if (first(i.chunk)) {
    search.look_at("was given an image", c.section.input(frame, 0, batch));
  }
  PassOptions options = pass_options(i);
  options.replay = true;
  c.section.forward(frame, batch, weights(i), c.statistic_bindings, options, std::ref(search));
  if (last(i.chunk) && i.operation == Operation::forward) search.look_at("produced a loss", batch, loss_.data() + totals_floats);
  return search.error(fault(i), options_.micro_batches);
}

// By the backward that has just run, again. The gradient holds it alone then, which does not matter any more.
Diverged Stage::fault_in_backward(const Backward& b) {
  Chunk& c = chunk(b.pass);
  Search search(health_);
  fill_zero(options_.device, store_.gradient(), size_t(buffers_.n) * sizeof(float));
  c.section.backward(b.frame, batch_size(b.pass), weights(b.pass), c.gradient, c.statistic_bindings, pass_options(b.pass), b.half,
                     std::ref(search));
  return search.error(fault(b.pass), options_.micro_batches);
}

StageReport Stage::report() {
  StageReport report{busy_.count(), meter_ ? meter_->take(options_.device) : PredictionError{}, std::exchange(skipped_, 0)};
  busy_ = {};
  return report;
}

LossTotals Stage::totals() {
  float totals[2] = {};
  if (loss_.size()) copy(options_.device, totals, loss_.data(), sizeof totals);
  synchronize(options_.device);
  return {totals[0], totals[1], left_out_};
}

Stage::MemoryUse Stage::memory() const {
  MemoryUse use{store_.segments().total * store_.copies(),
                stash_.size(),
                store_.segments().total,
                state_.size() + scratch_.size() + average_.size(),
                0,
                0};
  for (const Chunk& chunk : chunks_) {
    use.frames += chunk.section.frame_floats() * int64_t(chunk.frames.size()) + chunk.inputs.size();
    use.arena += chunk.section.arena_floats();
  }
  use.arena += images_in_fp32_.size();
  return use;
}

template <class Visit>
void Stage::each_parameter(const std::string& kind, float* buffer, const Visit& visit) const {
  const Segments& segments = store_.segments();
  for (size_t i = 0; i < segments.specs.size(); ++i)
    visit(kind + "/" + segments.specs[i].name, segments.specs[i].shape, buffer + segments.offsets[i]);
}

template <class Visit>
void Stage::each_statistic(const Visit& visit) const {
  for (size_t c = 0; c < chunks_.size(); ++c) {
    const Segments& segments = chunks_[c].section.statistics();
    for (size_t i = 0; i < segments.specs.size(); ++i)
      visit("statistics/" + segments.specs[i].name, segments.specs[i].shape, statistics(int(c)) + segments.offsets[i]);
  }
}

template <class Visit>
void Stage::each_kept(const Visit& visit) const {
  each_parameter("weights", store_.latest(), visit);
  for (int k = 0; k < options_.optimizer->states(); ++k) each_parameter("state-" + std::to_string(k), buffers_.state[size_t(k)], visit);
  if (keeps_gradient()) each_parameter("gradient", store_.gradient(), visit);
  each_statistic(visit);
}

SafeTensors Stage::save() const {
  SafeTensors to;
  auto add = [&](const std::string& name, const std::vector<int64_t>& shape, const float* from) {
    FileTensor& tensor = to.tensors[name] = {"F32", shape, {}};
    tensor.bytes.resize(size_t(tensor.count()) * sizeof(float));
    copy(options_.device, tensor.bytes.data(), from, tensor.bytes.size());
  };
  each_kept(add);
  if (average_.size()) each_parameter("average", average_.data(), add);
  if (meter_) add("prediction", {2}, meter_->sums());
  const int64_t counters[] = {updates_, looked_back_, skipped_, std::bit_cast<int64_t>(square_sum_)};
  const float factors[] = {rate_scale_, gradient_scale_};
  to.tensors["counters"] = FileTensor::i64({4}, counters);
  to.tensors["factors"] = FileTensor::f32({2}, factors);
  synchronize(options_.device);
  return to;
}

void Stage::restore(const std::vector<SafeTensors>& stages) {
  const Device d = options_.device;
  auto load = [&](const std::string& name, const std::vector<int64_t>& shape, float* to) {
    const FileTensor& tensor = saved(stages, name, "F32", shape);
    copy(d, to, tensor.bytes.data(), tensor.bytes.size());
  };
  each_kept(load);

  const std::vector<ParameterSpec>& specs = store_.segments().specs;
  size_t own = 0;  // of the stages that were saved, the one that had this one's first parameter
  while (!specs.empty() && !stages[own].tensors.count("weights/" + specs[0].name)) ++own;
  const std::span<const SafeTensors> of_stage(&stages[own], 1);
  int64_t counters[4];
  float factors[2];
  std::copy_n(saved(of_stage, "counters", "I64", {4}).bytes.data(), sizeof counters, reinterpret_cast<uint8_t*>(counters));
  std::copy_n(saved(of_stage, "factors", "F32", {2}).bytes.data(), sizeof factors, reinterpret_cast<uint8_t*>(factors));
  updates_ = counters[0], looked_back_ = counters[1], skipped_ = counters[2], square_sum_ = std::bit_cast<double>(counters[3]);
  rate_scale_ = factors[0], gradient_scale_ = factors[1];
  if (average_.size()) {
    bool all = true;  // a stage that did not look back had none
    for (const ParameterSpec& spec : specs) all = all && find_saved(stages, "average/" + spec.name);
    if (all) each_parameter("average", average_.data(), load);
    else looked_back_ = -1;  // it begins anew
  }
  if (meter_ && find_saved(of_stage, "prediction"))
    copy(d, meter_->sums(), saved(of_stage, "prediction", "F32", {2}).bytes.data(), 2 * sizeof(float));
  synchronize(d);
}

}  // namespace pipecast
