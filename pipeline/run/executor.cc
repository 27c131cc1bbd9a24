#include "pipeline/run/executor.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace pipecast {
namespace {

class SequentialExecutor : public Executor {
 public:
  SequentialExecutor(std::vector<Stage*> stages, int threads_per_stage) : stages_(std::move(stages)), threads_(threads_per_stage) {}

  void run() override {
    const int before = threads();
    set_threads(threads_);
    for (bool moved = true; moved;) {
      moved = false;
      for (Stage* stage : stages_)
        for (; !stage->done() && stage->ready(); moved = true) stage->advance();
    }
    set_threads(before);
    for (size_t k = 0; k < stages_.size(); ++k)
      if (!stages_[k]->done()) throw Error("the program deadlocks: stage " + std::to_string(k) + " waits for a message that no stage sends");
  }

 private:
  std::vector<Stage*> stages_;
  int threads_;
};

// One thread a stage for the whole training, so that what libraries keep per thread is made once.
class ThreadsExecutor : public Executor {
 public:
  ThreadsExecutor(std::vector<Stage*> stages, std::function<void()> stop, int threads_per_stage) : stop_others_(std::move(stop)) {
    try {
      for (Stage* stage : stages) workers_.emplace_back([this, stage, threads_per_stage] { work(*stage, threads_per_stage); });
    } catch (...) {  // the system refused one
      end();
      throw;
    }
  }
  ~ThreadsExecutor() override { end(); }

  void run() override {
    std::unique_lock lock(mutex_);
    ++run_;
    working_ = workers_.size();
    changed_.notify_all();
    changed_.wait(lock, [this] { return working_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void end() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void work(Stage& stage, int threads_per_stage) {
    set_threads(threads_per_stage);
    for (int64_t mine = 1;; ++mine) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || run_ >= mine; });
        if (stop_) return;
      }
      try {
        while (!stage.done()) stage.advance();
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        stop_others_();
      }
      std::lock_guard lock(mutex_);
      if (--working_ == 0) changed_.notify_all();
    }
  }

  std::function<void()> stop_others_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t run_ = 0;
  size_t working_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
};

}  // namespace

std::vector<std::string> executor_names() { return {"threads", "sequential"}; }

std::unique_ptr<Executor> make_executor(const std::string& name, std::vector<Stage*> stages, std::function<void()> stop,
                                        int threads_per_stage) {
  if (name == "sequential") return std::make_unique<SequentialExecutor>(std::move(stages), threads_per_stage);
  if (name == "threads") return std::make_unique<ThreadsExecutor>(std::move(stages), std::move(stop), threads_per_stage);
  throw UsageError(unknown_name("executor", name, executor_names()));
}

}  // namespace pipecast
