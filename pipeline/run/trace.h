#pragma once
// What the stages of a run did, and when: an event per instruction, for a file that opens in Perfetto. A stage has a track, whose memory is
// taken before the stages start. The times are the host's: on a GPU those at which a stage handed out the work, which runs later.
#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/plan/channels.h"

namespace pipecast {

// What a stage spends time on for an instruction: carrying it out, waiting for what it takes, and for a step the norm of its gradient,
// which others may wait for.
enum class Spent { instruction, wait, norm };

// Of one stage, whose thread alone writes to it.
class Track {
 public:
  using Clock = std::chrono::steady_clock;

  void begin() { begin_ = Clock::now(); }
  // For what the time went since begin(), or since the call before. updates: those that the stage has done by now.
  void add(Spent, const Instruction&, int64_t updates);
  // An instruction is done.
  void finish(const Instruction&, int64_t updates);

 private:
  friend class Trace;
  struct Event {
    Clock::time_point begin, end;
    Spent spent;
    Instruction instruction;  // its mini-batch counted over the run
    int64_t updates;
  };

  bool keeps(const Instruction&) const;

  Clock::time_point begin_;
  int64_t first_minibatch_ = 0;  // what mini-batch 0 of the program is
  int64_t from_ = 0, to_ = 0;    // the mini-batches of which events are kept
  std::vector<Event> events_;
  std::atomic<int64_t> left_ = 0;  // instructions of the program that are to be recorded
};

class Trace {
 public:
  // Of mini-batches [begin, end), counted over the run.
  Trace(int stages, int64_t begin, int64_t end);

  // Takes the memory for what the programs do, whose mini-batch 0 is the run's `first_minibatch`. While no stage runs.
  void expect(const std::vector<Program>&, int64_t first_minibatch);
  Track& track(int stage) { return tracks_[size_t(stage)]; }
  // Whether all is recorded. From then on the tracks are left alone, whatever the stages do.
  bool complete() const;
  // What is recorded so far, once it is complete or no stage runs: an array of events in Chrome's format.
  std::string json() const;

 private:
  int64_t end_, expected_ = 0;  // mini-batches
  std::optional<Channels> channels_;
  std::vector<Track> tracks_;
};

}  // namespace pipecast
