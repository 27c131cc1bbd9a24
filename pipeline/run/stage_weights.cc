#include "pipeline/run/stage_weights.h"

#include <algorithm>
#include <bit>

#include "optim/history.h"
#include "optim/moving_average.h"

namespace pipecast {

StageWeights::StageWeights(const StageOptions& options, const std::vector<const Section*>& sections)
    : options_(options), device_(options.device) {
  Segments parameters;
  for (const Section* section : sections) {
    chunks_.push_back({parameters.total, statistic_segments_.total});
    for (const ParameterSpec& spec : section->parameters().specs) parameters.add(spec);
    for (const ParameterSpec& spec : section->statistics().specs) statistic_segments_.add(spec);
  }
  store_ = ParameterStore(device_, parameters, options_.predicts);
  const int64_t n = parameters.total;
  stash_ = Memory(device_, options_.stash_slots * n);
  if (options_.moving_average > 0) moving_average_ = Memory(device_, n);
  statistics_ = Memory(device_, statistic_segments_.total);
  for (size_t c = 0; c < chunks_.size(); ++c) {
    Chunk& chunk = chunks_[c];
    const Section& section = *sections[c];
    chunk.latest = section.bind_parameters(store_.latest() + chunk.parameters);
    if (options_.moving_average > 0) chunk.moving_average = section.bind_parameters(moving_average_.data() + chunk.parameters);
    if (store_.other()) chunk.other = section.bind_parameters(store_.other() + chunk.parameters);
    for (int slot = 0; slot < options_.stash_slots; ++slot)
      chunk.stashed.push_back(section.bind_parameters(stash_.data() + slot * n + chunk.parameters));
    chunk.gradient = section.bind_gradients(store_.gradient() + chunk.parameters, options_.groups.frozen);
    chunk.statistic_binding = section.bind_statistics(statistics_.data() + chunk.statistics);
  }

  const int states = options_.optimizer->states();
  state_ = Memory(device_, states * n);
  ranges_ = ranges(store_.segments(), options_.groups);
  scratch_ = Memory(device_, options_.optimizer->scratch(matrices(store_.segments())));
  buffers_ = {n, store_.latest(), store_.gradient(), {}, nullptr, {}, scratch_.data()};
  for (int k = 0; k < states; ++k) buffers_.state[size_t(k)] = state_.data() + k * n;
  if (options_.looks_back) average_ = Memory(device_, n);
  rates_.resize(max_look_ahead);
}

const Binding& StageWeights::read(const Instruction& i) const {
  const Chunk& chunk = chunks_[size_t(i.chunk)];
  switch (i.reads) {
    case Reads::latest: return chunk.latest;
    case Reads::predicted: return chunk.other;
    case Reads::stash: return chunk.stashed[size_t(i.slot)];
  }
  return chunk.latest;
}

const float* StageWeights::flat(const Instruction& i) const {
  switch (i.reads) {
    case Reads::latest: return store_.latest();
    case Reads::predicted: return store_.other();
    case Reads::stash: return stash_.data() + i.slot * buffers_.n;
  }
  return store_.latest();
}

const Binding& StageWeights::evaluated(int chunk) const {
  return averages() ? chunks_[size_t(chunk)].moving_average : chunks_[size_t(chunk)].latest;
}

const float* StageWeights::evaluated_values(int chunk) const {
  return averages() ? moving_average_.data() + chunks_[size_t(chunk)].parameters : latest(chunk);
}

void StageWeights::begin_gradient() {
  if (gradient_is_used_) clear_gradient(), gradient_is_used_ = false;
}

void StageWeights::clear_gradient() { fill_zero(device_, store_.gradient(), size_t(buffers_.n) * sizeof(float)); }

void StageWeights::clear_frozen_gradient() {
  for (const Range& range : ranges_)
    if (range.frozen) fill_zero(device_, store_.gradient() + range.begin, size_t(range.n) * sizeof(float));
}

LookAhead StageWeights::look_ahead(int ahead, const Range& range) {
  for (int j = 0; j < ahead; ++j) rates_[size_t(j)] = range.rate * rate_scale_ * options_.schedule.at(updates_ + j, updates_per_epoch_);
  return {options_.look_ahead, {rates_.data(), size_t(ahead)}, gradient_scale_, range.decay};
}

// Calls visit(range, its part of the buffers) for what is trained. What is frozen will be what it is now.
template <class Visit>
void StageWeights::each_range(const Visit& visit) {
  for (const Range& range : ranges_) {
    const Buffers part = part_of(buffers_, range);
    if (!range.frozen) visit(range, part);
    else if (part.predicted) copy(device_, part.predicted, part.w, size_t(part.n) * sizeof(float));
  }
}

void StageWeights::move_average() {
  if (options_.moving_average > 0)
    pipecast::move_average(device_, buffers_.n, store_.latest(), moving_average_.data(), options_.moving_average, updates_);
}

void StageWeights::step(float rate_scale, int late, double gradient_norm, std::optional<int> ahead) {
  const float rate = rate_scale * options_.schedule.at(updates_, updates_per_epoch_);
  Update update{.t = updates_ + 1, .late = late};
  if (options_.clip_norm > 0 && gradient_norm > options_.clip_norm) update.gradient_scale = float(options_.clip_norm / gradient_norm);
  ++updates_;
  rate_scale_ = rate_scale, gradient_scale_ = update.gradient_scale;
  buffers_.predicted = ahead ? store_.other() : nullptr;
  each_range([&](const Range& range, const Buffers& part) {
    update.rate = range.rate * rate, update.decay = range.decay;
    options_.optimizer->step(device_, part, update, ahead ? look_ahead(*ahead, range) : LookAhead{});
  });
  move_average();
  gradient_is_used_ = true;
}

void StageWeights::skip(float rate_scale) {
  clear_gradient();  // look-aheads may read it
  ++updates_;
  rate_scale_ = rate_scale, gradient_scale_ = 1;
  move_average();
  gradient_is_used_ = true;
}

void StageWeights::predict(int ahead) {
  buffers_.predicted = store_.other();
  each_range(
      [&](const Range& range, const Buffers& part) { options_.optimizer->predict(device_, part, updates_, look_ahead(ahead, range)); });
}

void StageWeights::look_back(int updates) {
  // The mean change of the weights is taken over every update: where some have not been seen, it begins anew.
  if (updates_ == 0 || updates_ > looked_back_ + 1)
    copy(device_, average_.data(), store_.latest(), size_t(buffers_.n) * sizeof(float));
  looked_back_ = updates_;
  pipecast::look_back(device_, buffers_.n, store_.latest(), average_.data(), store_.other(), updates);
}

void StageWeights::stash(const Instruction& i) {
  copy(device_, stash_.data() + i.slot * buffers_.n, flat({.reads = i.reads}), size_t(buffers_.n) * sizeof(float));
}

// ---------------------------------------------------------------------------------------------------------------------
// Checkpoints

const FileTensor* find_saved(std::span<const SafeTensors> stages, const std::string& name) {
  for (const SafeTensors& stage : stages)
    if (const auto found = stage.tensors.find(name); found != stage.tensors.end()) return &found->second;
  return nullptr;
}

const FileTensor& saved(std::span<const SafeTensors> stages, const std::string& name, const char* type, const std::vector<int64_t>& shape) {
  const FileTensor* found = find_saved(stages, name);
  if (!found) throw UsageError("the checkpoint has no tensor '" + name + "': it is of another model or optimizer");
  if (found->type != type || found->shape != shape)
    throw UsageError("the checkpoint's tensor '" + name + "' has another type or shape: it is of another model");
  return *found;
}

template <class Visit>
void StageWeights::each_parameter(const std::string& kind, float* buffer, const Visit& visit) const {
  const Segments& segments = store_.segments();
  for (size_t i = 0; i < segments.specs.size(); ++i)
    visit(kind + "/" + segments.specs[i].name, segments.specs[i].shape, buffer + segments.offsets[i]);
}

template <class Visit>
void StageWeights::each_kept(const Visit& visit) const {
  each_parameter("weights", store_.latest(), visit);
  for (int k = 0; k < options_.optimizer->states(); ++k) each_parameter("state-" + std::to_string(k), buffers_.state[size_t(k)], visit);
  if (keeps_gradient()) each_parameter("gradient", store_.gradient(), visit);
  if (options_.moving_average > 0) each_parameter("moving-average", moving_average_.data(), visit);
  for (size_t i = 0; i < statistic_segments_.specs.size(); ++i)
    visit("statistics/" + statistic_segments_.specs[i].name, statistic_segments_.specs[i].shape,
          statistics_.data() + statistic_segments_.offsets[i]);
}

void StageWeights::save(SafeTensors& to, const StageCounters& counters) const {
  auto add = [&](const std::string& name, const std::vector<int64_t>& shape, const float* from) {
    FileTensor& tensor = to.tensors[name] = {"F32", shape, {}};
    tensor.bytes.resize(size_t(tensor.count()) * sizeof(float));
    copy(device_, tensor.bytes.data(), from, tensor.bytes.size());
  };
  each_kept(add);
  if (average_.size()) each_parameter("average", average_.data(), add);
  const int64_t numbers[] = {updates_, looked_back_, counters.skipped, std::bit_cast<int64_t>(counters.square_sum)};
  const float factors[] = {rate_scale_, gradient_scale_};
  to.tensors["counters"] = FileTensor::i64({4}, numbers);
  to.tensors["factors"] = FileTensor::f32({2}, factors);
}

const SafeTensors& StageWeights::own_checkpoint(const std::vector<SafeTensors>& stages) const {
  const std::vector<ParameterSpec>& specs = store_.segments().specs;
  size_t own = 0;
  while (!specs.empty() && !stages[own].tensors.count("weights/" + specs[0].name)) ++own;
  return stages[own];
}

StageCounters StageWeights::restore(const std::vector<SafeTensors>& stages, const SafeTensors& own) {
  auto load = [&](const std::string& name, const std::vector<int64_t>& shape, float* to) {
    const FileTensor& tensor = saved(stages, name, "F32", shape);
    copy(device_, to, tensor.bytes.data(), tensor.bytes.size());
  };
  each_kept(load);
  const std::span<const SafeTensors> of_stage(&own, 1);
  int64_t numbers[4];
  float factors[2];
  std::copy_n(saved(of_stage, "counters", "I64", {4}).bytes.data(), sizeof numbers, reinterpret_cast<uint8_t*>(numbers));
  std::copy_n(saved(of_stage, "factors", "F32", {2}).bytes.data(), sizeof factors, reinterpret_cast<uint8_t*>(factors));
  updates_ = numbers[0], looked_back_ = numbers[1];
  rate_scale_ = factors[0], gradient_scale_ = factors[1];
  if (average_.size()) {
    bool all = true;  // a stage that did not look back had none
    for (const ParameterSpec& spec : store_.segments().specs) all = all && find_saved(stages, "average/" + spec.name);
    if (all) each_parameter("average", average_.data(), load);
    else looked_back_ = -1;  // it begins anew
  }
  return {numbers[2], std::bit_cast<double>(numbers[3])};
}

}  // namespace pipecast
