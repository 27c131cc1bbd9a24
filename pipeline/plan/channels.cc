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
    int64_t& clock = clocks_[size_t(stage)];
    clock = std::max(clock, times_[size_t(message.channel)].sent[size_t(number)]);
    received_.push_back(message.channel);
  }
  void carry_out(int stage, size_t position) override {
    for (int channel : received_) times_[size_t(channel)].received.push_back(clocks_[size_t(stage)]);
    received_.clear();
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
  std::vector<int> received_;  // the channels of the instruction at hand: it waits for all of its messages
};

}  // namespace

Channels::Channels(const std::vector<Program>& programs, std::vector<Skip> skips)
    : stages_(int(programs.size())),
      chunks_(pipecast::chunks(programs)),
      skips_(std::move(skips)),
      behind_(size_t(pieces())),
      ahead_(size_t(pieces())) {
  const auto add = [&](int from, int to) {
    const int unlimited = std::numeric_limits<int>::max();
    all_.push_back({.from = from, .to = to, .gradients = false, .capacity = unlimited});
    all_.push_back({.from = to, .to = from, .gradients = true, .capacity = unlimited});
  };
  for (int k = 0; k < (chunks_ == 1 ? stages_ - 1 : stages_); ++k) add(k, (k + 1) % stages_);
  for (const Skip& skip : skips_) add(skip.from % stages_, skip.to % stages_);

  const auto connect = [&](int hop, int from, int to) {
    ahead_[size_t(from)].push_back({hop, to});
    behind_[size_t(to)].push_back({hop, from});
  };
  for (int n = 1; n < pieces(); ++n) connect(n, n - 1, n);
  for (size_t n = 0; n < skips_.size(); ++n) connect(pieces() + int(n), skips_[n].from, skips_[n].to);

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

int Channels::channel(int hop, bool gradients) const {
  if (hop < pieces()) return 2 * ((hop + stages_ - 1) % stages_) + (gradients ? 1 : 0);
  return int(all_.size()) - 2 * int(skips_.size()) + 2 * (hop - pieces()) + (gradients ? 1 : 0);
}

const std::vector<Channels::End>& Channels::ends(int stage, const Instruction& i) const {
  static const std::vector<End> none;
  const int here = piece({stage, i.tag()});
  if (i.chunk < 0 || here >= pieces()) return none;  // of a chunk that there is not
  switch (i.operation) {
    case Operation::receive_activation:
    case Operation::send_gradient: return behind_[size_t(here)];
    case Operation::send_activation:
    case Operation::receive_gradient: return ahead_[size_t(here)];
    default: return none;
  }
}

int Channels::messages(int stage, const Instruction& i) const { return int(ends(stage, i).size()); }

Message Channels::message(int stage, const Instruction& i, int n) const {
  const End& end = ends(stage, i)[size_t(n)];
  const bool gradients = i.operation == Operation::send_gradient || i.operation == Operation::receive_gradient;
  const bool sends = i.operation == Operation::send_gradient || i.operation == Operation::send_activation;
  Tag pass = i.tag();
  if (sends) pass.chunk = end.piece / stages_;
  return {channel(end.hop, gradients), sends, pass, end.hop};
}

}  // namespace pipecast
