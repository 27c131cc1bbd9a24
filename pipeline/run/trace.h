#pragma once
// Records what the stages of a run did and when, an event per instruction, as a file that opens in Perfetto. Each stage has a track, which
// is allocated before the stages start. The times are the host's: on a GPU a stage hands out the work then, and it runs later.
#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/plan/channels.h"

namespace pipecast {

// What a stage spends the time of an instruction on: carrying it out, waiting for a message or a free place, or, in a step, the norm of the
// gradient, for which it may wait for other stages.
enum class Spent { instruction, wait, norm };

// The events of one stage. Only the stage's thread writes to it.
class Track {
 public:
  using Clock = std::chrono::steady_clock;

  void begin() { begin_ = Clock::now(); }
  // Says what the time since begin(), or since the last add(), was spent on. updates: how many the stage has made by now.
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
  int64_t first_minibatch_ = 0;  // mini-batch 0 of the program is this one of the run
  int64_t from_ = 0, to_ = 0;    // events of mini-batches [from, to) are kept
  std::vector<Event> events_;
  std::atomic<int64_t> left_ = 0;  // instructions of the program that are to be recorded
};

class Trace {
 public:
  // Records mini-batches [begin, end) of the run.
  Trace(int stages, int64_t begin, int64_t end);

  // Allocates memory for the events of these programs, whose mini-batch 0 is the run's `first_minibatch`. Call it while no stage runs.
  void expect(const std::vector<Program>&, int64_t first_minibatch);
  Track& track(int stage) { return tracks_[size_t(stage)]; }
  // Whether everything is recorded. From then on the stages no longer write to the tracks.
  bool complete() const;
  // The events so far, as a JSON array in Chrome's trace format. Call it once complete() or while no stage runs.
  std::string json() const;

 private:
  int64_t end_, expected_ = 0;  // mini-batches
  std::optional<Channels> channels_;
  std::vector<Track> tracks_;
};

}  // namespace pipecast
