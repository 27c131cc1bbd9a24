#include "pipeline/run/stage.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;

bool waits(Operation operation) {
  return operation == Operation::receive_activation || operation == Operation::send_activation ||
         operation == Operation::receive_gradient || operation == Operation::send_gradient;
}

}  // namespace

Stage::Stage(const Graph& graph, const StageOptions& options)
    : options_(options), prediction_(graph.prediction()), health_(options.device) {
  const Device d = options_.device;
  const std::string stage = "stage " + std::to_string(options_.index);
  std::vector<const Section*> sections;
  size_t border = 0;
  int in_flight = 0;
  for (const ChunkOptions& c : options_.chunks) {
    Section section(d, graph, c.first_node, c.last_node, options_.passes, c.frames, options_.section());
    Source source(d, graph, section);
    chunks_.push_back(std::make_unique<Chunk>(Chunk{std::move(section), std::move(source), Frames(c.frames, "activation frames of " + stage),
                                                    Frames(c.inputs, "kept inputs of " + stage), std::vector<bool>(size_t(c.frames))}));
    Chunk& chunk = *chunks_.back();
    chunk.values = chunk.section.fed();
    chunk.values.insert(chunk.values.end(), chunk.section.inputs().begin(), chunk.section.inputs().end());
    for (int v : chunk.values) chunk.input_floats += chunk.section.plan().most_floats(v);
    if (chunk.section.means() > 0) chunk.input_floats += Section::loss_floats;  // the scale
    chunk.inputs = Memory(d, c.inputs * chunk.input_floats);
    sections.push_back(&chunk.section);
    border = std::max({border, chunk.section.inputs().size(), chunk.section.outputs().size()});
    in_flight += c.frames + c.inputs;
  }
  if (options_.cuda_graphs) replays_ = Replays<PassKey>(make_recorder(d));
  weights_ = std::make_unique<StageWeights>(options_, sections);
  if (weights_->store().other() && weights_->size() > 0) {
    meter_.emplace(d, weights_->size(), in_flight);
    measured_ = Frames(in_flight, "places in the meter of " + stage);
  }
  message_.resize(border);
  const Section& last = *sections.back();
  if (options_.non_finite == NonFinite::skip) {
    int64_t statistics = 0;
    for (const Section* section : sections) statistics += section->statistics().total;
    statistics_before_ = Memory(d, statistics), sums_before_ = Memory(d, last.means() > 0 ? Section::loss_floats : 0);
  }
  if (last.means() == 0) return;
  int64_t most = 0;
  for (const SpecTable& table : last.plan().tables) most = std::max(most, table.specs[size_t(prediction_)].shape.count());
  host_prediction_.resize(size_t(most));
  if (options_.activations == Storage::bf16) host_rounded_prediction_.resize(size_t(most));
}

Stage::~Stage() = default;

int Stage::frames() const {
  int frames = 0;
  for (const auto& chunk : chunks_) frames += chunk->frames.count();
  return frames;
}

void Stage::begin(const Program& program, Feed feed) {
  program_ = &program;
  position_ = 0;
  feed_ = std::move(feed);
  batches_ = *feed_.batches;
  for (auto& chunk : chunks_) {
    chunk->source.begin(*batches_, feed_.first_minibatch, feed_.end_minibatch);
    chunk->frames.clear(), chunk->kept.clear();
    chunk->spoiled = -1;
  }
  measured_.clear();
  weights_->begin(feed_.updates_per_epoch);
  counts_ = {};
  if (float* sums = chunks_.back()->section.sums()) fill_zero(options_.device, sums, Section::loss_floats * sizeof(float));
  if (!feed_.training) return;
  const auto steps = [](const Instruction& i) { return is_step(i.operation); };
  square_sums_.assign(size_t(1 + std::count_if(program.begin(), program.end(), steps)), std::nan(""));
  square_sums_[0] = square_sum_;
  first_update_ = updates(), norm_of_ = -1;
}

template <class Visit>
void Stage::each_message(const Instruction& i, const Visit& visit) const {
  const Channels& channels = options_.layout->channels();
  const int messages = channels.messages(options_.index, i);
  for (int n = 0; n < messages; ++n) visit(channels.message(options_.index, i, n));
}

bool Stage::ready() {
  const Instruction& i = (*program_)[position_];
  if (is_step(i.operation)) {
    if (!options_.all_norms) return true;
    contribute_norm(i);
    return options_.all_norms->complete(updates());
  }
  bool ready = true;
  each_message(i,
               [&](const Message& m) { ready &= m.sends ? senders[size_t(m.channel)]->ready() : receivers[size_t(m.channel)]->ready(); });
  return ready;
}

int64_t Stage::first_sample(const Instruction& i) const {
  return batches_->size(feed_.first_minibatch + i.minibatch) * i.micro / options_.micro_batches;
}

PassShape Stage::shape(const Instruction& i) const {
  const PassShape whole = batches_->shape(feed_.first_minibatch + i.minibatch);
  const int64_t begin = whole.samples * i.micro / options_.micro_batches, end = whole.samples * (i.micro + 1) / options_.micro_batches;
  return {end - begin, whole.length};
}

PassOptions Stage::pass_options(const Instruction& i) const {
  PassOptions pass;
  pass.training = feed_.training, pass.seed = options_.seed;
  pass.step = uint64_t(feed_.first_minibatch + i.minibatch) * uint64_t(options_.micro_batches) + uint64_t(i.micro);
  pass.deferred = options_.deferred_batch_norm, pass.samples_before = first_sample(i);
  pass.replay = i.operation == Operation::recompute;
  return pass;
}

void Stage::advance() {
  const Instruction& i = (*program_)[position_];
  const auto start = Clock::now();
  if (feed_.track) feed_.track->begin(), wait_for_others(i);
  switch (i.operation) {
    case Operation::receive_activation: receive_activation(i); break;
    case Operation::forward: forward(i); break;
    case Operation::send_activation: send_activation(i); break;
    case Operation::receive_gradient: send_or_receive(i, frame_of(i)); break;
    case Operation::recompute: recompute(i); break;
    case Operation::backward: backward(i, Half::both); break;
    case Operation::backward_input: backward(i, Half::input); break;
    case Operation::backward_weight: backward(i, Half::weight); break;
    case Operation::send_gradient: send_or_receive(i, 0); break;
    case Operation::step:
    case Operation::step_and_predict: step(i); break;
    case Operation::predict: weights_->predict(i.ahead); break;
    case Operation::look_back: weights_->look_back(i.back); break;
    case Operation::stash: weights_->stash(i); break;
  }
  if (feed_.training && !waits(i.operation)) busy_ += Clock::now() - start - std::exchange(waited_, {});
  if (feed_.track) feed_.track->finish(i, updates());
  ++position_;
}

// For the track, in which an instruction does not begin before it can go on.
void Stage::wait_for_others(const Instruction& i) {
  if (ready()) return;
  if (is_step(i.operation)) norm_of_all();
  each_message(i, [&](const Message& m) { m.sends ? senders[size_t(m.channel)]->wait() : receivers[size_t(m.channel)]->wait(); });
  feed_.track->add(Spent::wait, i, updates());
}

// The values that cross a border, in a frame.
std::span<const Tensor> Stage::values_of(const Instruction& i, int frame, const std::vector<int>& values) {
  const PassShape pass = shape(i);
  for (size_t k = 0; k < values.size(); ++k) message_[k] = chunk(i).section.value(frame, values[k], pass);
  return {message_.data(), values.size()};
}

// Their gradients, of those that have one.
std::span<const Tensor> Stage::gradients_of(const Instruction& i, int frame, const std::vector<int>& values) {
  const PassShape pass = shape(i);
  size_t count = 0;
  for (int v : values)
    if (const Tensor gradient = chunk(i).section.gradient(frame, v, pass); gradient.data) message_[count++] = gradient;
  return {message_.data(), count};
}

// The messages of the instruction: values or gradients of the frame.
void Stage::send_or_receive(const Instruction& i, int frame) {
  const bool gradients = i.operation == Operation::receive_gradient || i.operation == Operation::send_gradient;
  each_message(i, [&](const Message& m) {
    const Crossing& crossing = options_.layout->crossings()[size_t(m.hop)];
    const std::span<const Tensor> tensors = gradients ? gradients_of(i, frame, crossing.gradients) : values_of(i, frame, crossing.values);
    if (m.sends) senders[size_t(m.channel)]->send(options_.device, m.pass, tensors);
    else receivers[size_t(m.channel)]->receive(options_.device, m.pass, tensors);
  });
}

void Stage::receive_activation(const Instruction& i) {
  Chunk& c = chunk(i);
  const int frame = c.frames.take(i.tag());
  send_or_receive(i, frame);
  if (i.micro == 0) {
    c.source.next();
    if (feed_.track && c.section.inputs().empty()) feed_.track->add(Spent::wait, i, updates());
  }
  c.source.load(c.section, frame, first_sample(i), shape(i));
}

// Of a pass, between its frame and a place for those that will be recomputed.
void Stage::copy_inputs(const Instruction& i, int frame, int slot, bool to_slot) {
  const Chunk& c = chunk(i);
  const PassShape pass = shape(i);
  float* kept = c.inputs.data() + slot * c.input_floats;
  const auto move = [&](void* of_frame, size_t bytes) {
    if (to_slot) copy(options_.device, kept, of_frame, bytes);
    else copy(options_.device, of_frame, kept, bytes);
  };
  if (has_loss(i)) move(c.section.scale(frame), sizeof(float)), kept += Section::loss_floats;
  for (int v : c.values) {
    const Tensor value = c.section.value(frame, v, pass);
    move(value.data, value.bytes());
    kept += aligned(value.floats());
  }
}

// The meter looks at one pass of a mini-batch.
void Stage::measure(const Instruction& i) {
  if (!meter_ || !feed_.training || i.micro > 0 || i.chunk > 0) return;
  if (i.operation == Operation::forward) {
    meter_->at_forward(options_.device, measured_.take(i.tag()), weights_->flat(i), weights_->store().latest());
  } else {
    const int place = measured_.find(i.tag());
    meter_->at_backward(options_.device, place, weights_->flat(i), weights_->store().latest());
    measured_.release(place);
  }
}

const Binding& Stage::read(const Instruction& i) const { return feed_.training ? weights_->read(i) : weights_->evaluated(i.chunk); }

Stage::PassKey Stage::key(const Instruction& i, int frame) const {
  return {i.operation, feed_.training, i.chunk, frame, &read(i), shape(i)};
}

void Stage::section_forward(const Instruction& i, int frame) {
  replays_.run(key(i, frame),
               [&] { chunk(i).section.forward(frame, shape(i), read(i), weights_->statistic_binding(i.chunk), pass_options(i)); });
}

void Stage::forward(const Instruction& i) {
  Chunk& c = chunk(i);
  const int frame = frame_of(i);
  if (!i.keep) copy_inputs(i, frame, c.kept.take(i.tag()), true);
  c.keep[size_t(frame)] = i.keep && feed_.training;
  keep_statistics(i);
  if (shape(i).samples > 0) {
    section_forward(i, frame);
    for (size_t k = 0; k < c.source.counts().size(); ++k) counts_[k] += c.source.counts()[k];
    check_forward(i, frame);
  }
  measure(i);
  if (has_loss(i)) after_loss(i, frame);
}

void Stage::after_loss(const Instruction& i, int frame) {
  Chunk& c = chunk(i);
  if (feed_.on_prediction) hand_out_prediction(i, frame);
  if (!c.keep[size_t(frame)]) c.frames.release(frame);
  if (feed_.on_minibatch && i.micro == options_.micro_batches - 1) feed_.on_minibatch(i.minibatch);
}

void Stage::hand_out_prediction(const Instruction& i, int frame) {
  const Tensor prediction = chunk(i).section.value(frame, prediction_, shape(i));
  const bool rounded = prediction.storage == Storage::bf16;
  void* host = rounded ? static_cast<void*>(host_rounded_prediction_.data()) : host_prediction_.data();
  copy(options_.device, host, prediction.data, prediction.bytes());
  synchronize(options_.device);
  if (rounded) std::copy_n(host_rounded_prediction_.begin(), prediction.shape.count(), host_prediction_.begin());
  feed_.on_prediction({host_prediction_.data(), prediction.shape});
}

void Stage::send_activation(const Instruction& i) {
  Chunk& c = chunk(i);
  const int frame = frame_of(i);
  send_or_receive(i, frame);
  if (!c.keep[size_t(frame)]) c.frames.release(frame);
}

// The forward of a pass again, into a frame, from its input.
void Stage::recompute(const Instruction& i) {
  Chunk& c = chunk(i);
  const int slot = c.kept.find(i.tag()), frame = c.frames.take(i.tag());
  copy_inputs(i, frame, slot, false);
  c.kept.release(slot);
  if (shape(i).samples == 0) return;
  section_forward(i, frame);
  check_forward(i, frame);
}

void Stage::backward(const Instruction& i, Half half) {
  Chunk& c = chunk(i);
  const int frame = frame_of(i);
  weights_->begin_gradient();
  if (half != Half::weight) measure(i);
  if (shape(i).samples > 0)
    replays_.run(key(i, frame), [&] {
      c.section.backward(frame, shape(i), weights_->read(i), weights_->gradient_binding(i.chunk), weights_->statistic_binding(i.chunk),
                         pass_options(i), half);
    });
  check_backward({i, half, frame});
  if (half != Half::input) c.frames.release(frame);
}

// The square sum of the gradient, once per update.
void Stage::contribute_norm(const Instruction& i) {
  if (norm_of_ == updates()) return;
  norm_of_ = updates();
  if (feed_.track) feed_.track->begin();
  weights_->clear_frozen_gradient();
  square_sum_ = health_.square_sum(weights_->size(), weights_->store().gradient());
  if (options_.non_finite == NonFinite::stop && !std::isfinite(square_sum_))
    throw unchecked_ ? fault_in_backward(*unchecked_) : Search(health_).error(fault(i), options_.micro_batches);
  square_sums_[size_t(1 + updates() - first_update_)] = square_sum_;
  if (feed_.track) feed_.track->add(Spent::norm, i, updates());
  if (options_.all_norms) options_.all_norms->put(options_.index, updates(), square_sum_);
}

// The norm that clipping compares. The time for which the other stages' shares are waited for is not spent computing.
double Stage::norm_of_all() {
  if (!options_.all_norms) return std::sqrt(square_sum_);
  const auto start = Clock::now();
  const double total = options_.all_norms->total(updates());
  waited_ += Clock::now() - start;
  return std::sqrt(total);
}

void Stage::step(const Instruction& i) {
  contribute_norm(i);
  const double norm = norm_of_all();
  const std::optional<int> ahead = i.operation == Operation::step_and_predict ? std::optional(i.ahead) : std::nullopt;
  if (std::isfinite(norm)) return weights_->step(i.scale, i.late, norm, ahead);
  skip_update(i);
  if (ahead) weights_->predict(*ahead);
}

}  // namespace pipecast
