#include "pipeline/plan/channels.h"

#include <algorithm>
#include <limits>

#include "pipeline/plan/walker.h"

namespace pipecast {
namespace {

// Counts the messages under way while every pass takes a tick and everything else none.
class Counter : public Visitor {
 public:
  Counter(const std::vector<Program>& programs, size_t channels) : programs_(programs), clocks_(programs.size()), times_(channels) {}

  void send(int stage, size_t, const Message& message, int64_t) override {
    times_[size_t(message.channel)].sent.push_back(clocks_[size_t(stage)]);
  }
  void receive(int stage, size_t, const Message& message, const Tag&, int64_t number) override {
    Times& times = times_[size_t(message.channel)];
    int64_t& clock = clocks_[size_t(stage)];
    clock = std::max(clock, times.sent[size_t(number)]);
    times.received.push_back(clock);
  }
  void carry_out(int stage, size_t position) override {
    const Operation operation = programs_[size_t(stage)][position].operation;
    if (is_pass(operation) || operation == Operation::backward_weight) ++clocks_[size_t(stage)];
  }

  // A place that is given free in the tick in which the next message is sent serves for that.
  int most_under_way(int channel) const {
    const Times& times = times_[size_t(channel)];
    size_t most = 0;
    for (size_t sent = 0, received = 0; sent < times.sent.size(); ++sent) {
      while (received < times.received.size() && times.received[received] <= times.sent[sent] && received < sent) ++received;
      most = std::max(most, sent + 1 - received);
    }
    return int(most);
  }

 private:
  struct Times {
    std::vector<int64_t> sent, received;
  };
  const std::vector<Program>& programs_;
  std::vector<int64_t> clocks_;
  std::vector<Times> times_;
};

}  // namespace

Channels::Channels(const std::vector<Program>& programs) : stages_(int(programs.size())), chunks_(pipecast::chunks(programs)) {
  activations_.assign(programs.size(), -1), gradients_.assign(programs.size(), -1);
  for (int k = 0; k < stages_; ++k) {
    if (k == stages_ - 1 && chunks_ == 1) break;
    const int next = (k + 1) % stages_, unlimited = std::numeric_limits<int>::max();
    activations_[size_t(k)] = int(all_.size());
    all_.push_back({.from = k, .to = next, .gradients = false, .capacity = unlimited});
    gradients_[size_t(k)] = int(all_.size());
    all_.push_back({.from = next, .to = k, .gradients = true, .capacity = unlimited});
  }
  Counter counter(programs, all_.size());
  walk(programs, *this, counter);
  for (size_t c = 0; c < all_.size(); ++c) all_[c].capacity = std::max(2, counter.most_under_way(int(c)));
}

std::optional<PassAt> Channels::after(const PassAt& at) const {
  const bool last_stage = at.stage == stages_ - 1;
  if (last_stage && at.pass.chunk == chunks_ - 1) return {};
  PassAt next{last_stage ? 0 : at.stage + 1, at.pass};
  next.pass.chunk += last_stage ? 1 : 0;
  return next;
}

std::optional<PassAt> Channels::before(const PassAt& at) const {
  if (at.stage == 0 && at.pass.chunk == 0) return {};
  PassAt previous{at.stage == 0 ? stages_ - 1 : at.stage - 1, at.pass};
  previous.pass.chunk -= at.stage == 0 ? 1 : 0;
  return previous;
}

std::optional<Message> Channels::message(int stage, const Instruction& i) const {
  const PassAt here{stage, i.tag()};
  const std::optional<PassAt> next = after(here), previous = before(here);
  std::optional<Message> message;
  switch (i.operation) {
    case Operation::receive_activation:
      if (previous) message = {activations_to(stage), false, here.pass, piece(here)};
      break;
    case Operation::send_activation:
      if (next) message = {activations_from(stage), true, next->pass, piece(*next)};
      break;
    case Operation::receive_gradient:
      if (next) message = {gradients_to(stage), false, here.pass, piece(*next)};
      break;
    case Operation::send_gradient:
      if (previous) message = {gradients_from(stage), true, previous->pass, piece(here)};
      break;
    default: break;
  }
  if (message && message->channel < 0) return {};  // of a chunk that there is not
  return message;
}

}  // namespace pipecast
