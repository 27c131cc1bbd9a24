#include "pipeline/plan/walker.h"

namespace pipecast {
namespace {

class Walk {
 public:
  Walk(const std::vector<Program>& programs, const Channels& channels, Visitor& visitor)
      : programs_(programs), channels_(channels), visitor_(visitor), stages_(programs.size()), queues_(channels.all().size()) {
    for (const Channel& channel : channels.all()) at(channel.from).others.push_back(channel.to), at(channel.to).others.push_back(channel.from);
  }

  WalkEnd run() {
    // The stages that may be able to go on. What a stage does can only help those at the other ends of its channels.
    std::vector<int> able;
    std::vector<bool> listed(stages_.size(), true);
    for (int k = int(stages_.size()); k-- > 0;) able.push_back(k);
    while (!able.empty()) {
      const int k = able.back();
      able.pop_back();
      listed[size_t(k)] = false;
      const size_t before = at(k).position;
      while (advance(k)) continue;
      if (at(k).position == before) continue;
      for (int other : at(k).others)
        if (other != k && !listed[size_t(other)] && !done(other)) able.push_back(other), listed[size_t(other)] = true;
    }
    return end();
  }

 private:
  struct Stage {
    size_t position = 0;
    bool reached = false;       // the visitor knows of this position
    std::vector<int> others = {};  // stages at the other ends of its channels
  };
  struct Queue {
    struct Sent {
      Tag pass;
      size_t position;
    };
    std::deque<Sent> under_way;
    int64_t sent = 0, received = 0;
  };

  Stage& at(int k) { return stages_[size_t(k)]; }
  bool done(int k) const { return stages_[size_t(k)].position == programs_[size_t(k)].size(); }
  const Instruction& next(int k) const { return programs_[size_t(k)][stages_[size_t(k)].position]; }

  // Carries out the next instruction of stage k; false where it must wait or there is none.
  bool advance(int k) {
    if (done(k)) return false;
    Stage& stage = at(k);
    if (!stage.reached) visitor_.reach(k, stage.position), stage.reached = true;
    const int messages = channels_.messages(k, next(k));
    for (int n = 0; n < messages; ++n)
      if (!able(channels_.message(k, next(k), n))) return false;
    for (int n = 0; n < messages; ++n) {
      const Message message = channels_.message(k, next(k), n);
      message.sends ? send(k, message) : receive(k, message);
    }
    visitor_.carry_out(k, stage.position);
    ++stage.position, stage.reached = false;
    return true;
  }

  // Whether there is a place for it, or it has come.
  bool able(const Message& message) const {
    const Queue& queue = queues_[size_t(message.channel)];
    return message.sends ? int64_t(queue.under_way.size()) < channels_.all()[size_t(message.channel)].capacity : !queue.under_way.empty();
  }

  void send(int k, const Message& message) {
    Queue& queue = queues_[size_t(message.channel)];
    visitor_.send(k, at(k).position, message, queue.sent++);
    queue.under_way.push_back({message.pass, at(k).position});
  }

  void receive(int k, const Message& message) {
    Queue& queue = queues_[size_t(message.channel)];
    visitor_.receive(k, at(k).position, message, queue.under_way.front().pass, queue.received++);
    queue.under_way.pop_front();
  }

  // What a stage that cannot go on waits for.
  Message awaited(int k) const {
    int n = 0;
    while (able(channels_.message(k, next(k), n))) ++n;
    return channels_.message(k, next(k), n);
  }

  WalkEnd end() const {
    WalkEnd end;
    for (int k = 0; k < int(stages_.size()); ++k)
      if (!done(k)) end.waiting.push_back({k, stages_[size_t(k)].position, awaited(k)});
    for (int c = 0; c < int(queues_.size()); ++c)
      if (!queues_[size_t(c)].under_way.empty()) end.unreceived.push_back({c, queues_[size_t(c)].under_way.front().position});
    return end;
  }

  const std::vector<Program>& programs_;
  const Channels& channels_;
  Visitor& visitor_;
  std::vector<Stage> stages_;
  std::vector<Queue> queues_;
};

}  // namespace

WalkEnd walk(const std::vector<Program>& programs, const Channels& channels, Visitor& visitor) { return Walk(programs, channels, visitor).run(); }

}  // namespace pipecast
