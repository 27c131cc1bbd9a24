#include "pipeline/run/trace.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <tuple>

namespace pipecast {
namespace {

// As the drawing has it, where it has it.
std::string short_name(Operation operation) {
  switch (operation) {
    case Operation::forward: return "F";
    case Operation::recompute: return "R";
    case Operation::backward: return "B";
    case Operation::backward_input: return "I";
    case Operation::backward_weight: return "W";
    case Operation::receive_activation:
    case Operation::receive_gradient: return "receive";
    case Operation::send_activation:
    case Operation::send_gradient: return "send";
    default: return to_string(operation);
  }
}

std::string awaited(const Instruction& i, int stage) {
  switch (i.operation) {
    case Operation::receive_activation: return stage == 0 && i.chunk == 0 ? "samples" : "activation";
    case Operation::receive_gradient: return "gradient";
    case Operation::step:
    case Operation::step_and_predict: return "norms of the other stages";
    default: return "room in the channel";
  }
}

// "F 12.3": the mini-batch and the micro-batch; on chunk 1 "F 12.3c1".
std::string name_of(Spent spent, const Instruction& i) {
  const std::string what = spent == Spent::instruction ? short_name(i.operation) : spent == Spent::norm ? "norm" : "wait";
  return what + " " + std::to_string(i.minibatch) + "." + std::to_string(i.micro) + (i.chunk > 0 ? "c" + std::to_string(i.chunk) : "");
}

std::string category(Spent spent, const Instruction& i) {
  return spent == Spent::instruction ? to_string(i.operation) : spent == Spent::norm ? "norm" : "wait";
}

std::string microseconds(std::chrono::nanoseconds time) {
  char text[32];
  std::snprintf(text, sizeof text, "%lld.%03lld", (long long)(time.count() / 1000), (long long)(time.count() % 1000));
  return text;
}

// None of the texts here needs escaping.
std::string text_field(const std::string& name, const std::string& value) { return ",\"" + name + "\":\"" + value + '"'; }
std::string field(const std::string& name, const std::string& value) { return ",\"" + name + "\":" + value; }
std::string field(const std::string& name, int64_t value) { return field(name, std::to_string(value)); }

std::string event(char phase, int stage, const std::string& name, const std::string& fields) {
  return std::string("{\"ph\":\"") + phase + "\",\"pid\":0" + field("tid", stage) + text_field("name", name) + fields + "}";
}

std::string metadata(int stage, const std::string& name, const std::string& value) {
  return event('M', stage, name, ",\"args\":{" + value.substr(1) + "}");
}

// Named as the audit names them.
std::string arguments(Spent spent, const Instruction& i, int64_t updates, int stage) {
  std::string text = field("minibatch", i.minibatch) + field("micro", i.micro) + field("chunk", i.chunk);
  if (spent == Spent::wait) return text + text_field("for", awaited(i, stage));
  if (spent == Spent::norm) return text;
  if (is_pass(i.operation))
    return text + text_field("reads", to_string(i.reads)) + field("version", updates - i.age) + field("ahead", i.ahead - i.back) +
           field("live", updates);
  switch (i.operation) {
    case Operation::step: return text + field("makes_version", updates);
    case Operation::step_and_predict: return text + field("makes_version", updates) + field("predicts_ahead", i.ahead);
    case Operation::predict:
    case Operation::look_back: return text + field("version", updates) + field("ahead", i.ahead - i.back);
    case Operation::stash: return text + text_field("reads", to_string(i.reads)) + field("slot", i.slot);
    default: return text;
  }
}

}  // namespace

bool Track::keeps(const Instruction& i) const {
  const int64_t minibatch = first_minibatch_ + i.minibatch;
  return minibatch >= from_ && minibatch < to_;
}

void Track::add(Spent spent, const Instruction& i, int64_t updates) {
  if (!keeps(i)) return;
  const Clock::time_point now = Clock::now();
  events_.push_back({begin_, now, spent, i, updates});
  events_.back().instruction.minibatch += first_minibatch_;
  begin_ = now;
}

void Track::finish(const Instruction& i, int64_t updates) {
  add(Spent::instruction, i, updates);
  left_ -= int(keeps(i));
}

Trace::Trace(int stages, int64_t begin, int64_t end) : end_(end), tracks_(size_t(stages)) {
  for (Track& track : tracks_) track.from_ = begin, track.to_ = end;
}

void Trace::expect(const std::vector<Program>& programs, int64_t first_minibatch) {
  expected_ = first_minibatch + minibatches(programs);
  if (!channels_) channels_.emplace(programs);  // where passes go on does not change
  for (size_t k = 0; k < tracks_.size(); ++k) {
    Track& track = tracks_[k];
    track.first_minibatch_ = first_minibatch;
    const int64_t count = std::count_if(programs[k].begin(), programs[k].end(), [&](const Instruction& i) { return track.keeps(i); });
    track.left_ = count;
    track.events_.reserve(track.events_.size() + 3 * size_t(count));  // a step's norm, its wait and itself
  }
}

bool Trace::complete() const {
  return expected_ >= end_ && std::all_of(tracks_.begin(), tracks_.end(), [](const Track& track) { return track.left_ == 0; });
}

std::string Trace::json() const {
  using Event = Track::Event;
  const int stages = int(tracks_.size());
  auto origin = Track::Clock::time_point::max();
  for (const Track& track : tracks_)
    if (!track.events_.empty()) origin = std::min(origin, track.events_.front().begin);
  auto time = [&](Track::Clock::time_point point) { return field("ts", microseconds(point - origin)); };

  std::vector<std::string> lines = {metadata(0, "process_name", text_field("name", "pipecast"))};
  // The passes: whether they make a gradient, on which stage, which pass.
  std::map<std::tuple<bool, int, Tag>, const Event*> passes;
  for (int k = 0; k < stages; ++k) {
    lines.push_back(metadata(k, "thread_name", text_field("name", "stage " + std::to_string(k))));
    lines.push_back(metadata(k, "thread_sort_index", field("sort_index", k)));
    for (const Event& e : tracks_[size_t(k)].events_) {
      const Instruction& i = e.instruction;
      lines.push_back(event('X', k, name_of(e.spent, i),
                            text_field("cat", category(e.spent, i)) + time(e.begin) + field("dur", microseconds(e.end - e.begin)) +
                                field("args", "{" + arguments(e.spent, i, e.updates, k).substr(1) + "}")));
      if (e.spent == Spent::instruction && (i.operation == Operation::forward || is_backward(i.operation)))
        passes[{is_backward(i.operation), k, i.tag()}] = &e;
    }
  }

  // An arrow belongs to the events that are under way where it begins and ends.
  int64_t arrows = 0;
  for (const auto& [pass, maker] : passes) {
    const auto& [gradient, stage, tag] = pass;
    const Instruction send{.operation = gradient ? Operation::send_gradient : Operation::send_activation,
                           .minibatch = tag.minibatch,
                           .micro = tag.micro,
                           .chunk = tag.chunk};
    for (int n = 0; n < channels_->messages(stage, send); ++n) {
      const Message message = channels_->message(stage, send, n);
      const int to = channels_->all()[size_t(message.channel)].to;
      const auto taker = passes.find({gradient, to, message.pass});
      if (taker == passes.end()) continue;
      const std::string name = gradient ? "gradient" : "activation", common = text_field("cat", name) + field("id", ++arrows);
      const auto last = std::max(maker->begin, maker->end - std::chrono::nanoseconds(1));
      lines.push_back(event('s', stage, name, common + time(last)));
      lines.push_back(event('f', to, name, common + time(taker->second->begin) + text_field("bp", "e")));
    }
  }

  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "[\n" : ",\n") + line;
  return text + "\n]\n";
}

}  // namespace pipecast
