#pragma once
// Runs the stages' programs: each stage in a thread of its own, or all of them in turns in the calling thread. The results are the same,
// bit for bit, where each stage computes with the same number of threads.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/run/stage.h"

namespace pipecast {

class Executor {
 public:
  virtual ~Executor() = default;
  // Runs every stage's program to its end. When a stage fails, the others are stopped and its exception is thrown.
  virtual void run() = 0;
};

// "threads" or "sequential"; each stage computes with `threads_per_stage` threads. `stop` makes a stage that waits for another one throw.
// The stages and what they wait for must outlive the executor.
std::unique_ptr<Executor> make_executor(const std::string& name, std::vector<Stage*> stages, std::function<void()> stop,
                                        int threads_per_stage);
std::vector<std::string> executor_names();

}  // namespace pipecast
