#undef _FORTIFY_SOURCE  // its longjmp refuses to go from one stack to another
#include "tests/emulator/emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EMULATOR_SANITIZED
#endif

constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace pipecast {

namespace {

enum class State { ready, at_barrier, at_exchange, ended };  // an exchange: a shuffle or a multiplication by tensor cores
using Words = std::array<uint32_t, 6>;

// A place in a stack where work goes on later. swapcontext() asks the system for a mask of signals each time, so it is used only to enter
// a stack, and under sanitizers, which refuse longjmp() here. The thread sanitizer takes all fibers for the host thread that they run in.
struct Place {
  ucontext_t context;
  jmp_buf at;
  bool entered = false;
};

void go(Place& from, Place& to) {
  from.entered = true;
#ifdef EMULATOR_SANITIZED
  swapcontext(&from.context, &to.context);
#else
  if (_setjmp(from.at) != 0) return;
  if (to.entered) _longjmp(to.at, 1);
  to.entered = true;
  setcontext(&to.context);
#endif
}

// A stack that runs one thread of the block after another, until one has to wait: then that thread keeps it.
struct Fiber {
  static constexpr size_t stack_bytes = 256 << 10;
  Place place;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};

  explicit Fiber(void (*serve)()) {
    getcontext(&place.context);
    place.context.uc_stack.ss_sp = stack.get();
    place.context.uc_stack.ss_size = stack_bytes;
    makecontext(&place.context, serve, 0);
  }
};

struct Thread {
  State state = State::ready;
  Fiber* fiber = nullptr;
  std::source_location where;  // it waits here
  Words given = {};            // to the lanes of its warp
  bool whole_warp = true;      // whether it named all of them
};

std::string line_of(std::source_location where) { return std::string(where.file_name()) + ":" + std::to_string(where.line()); }
bool same(std::source_location a, std::source_location b) { return a.line() == b.line() && a.column() == b.column(); }

[[noreturn]] void fault(const std::string& what) {
  throw Error("emulator: block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) +
              "): " + what);
}

// The block that runs. Device code does not throw, so faults are thrown only where no fiber runs.
class Block {
 public:
  void run(const std::function<void()>& body) {
    body_ = &body;
    reversed_ = (blockIdx.x + blockIdx.y + blockIdx.z) % 2 == 1;
    threads_.assign(blockDim.x * blockDim.y * blockDim.z, Thread{});
    number_threads();
    started_ = ended_ = 0;
    while (started_ < threads_.size()) resume(idle_fiber());
    while (ended_ < threads_.size()) {
      release();
      for (size_t i = 0; i < threads_.size(); ++i) {
        running_ = turn(i);
        if (threads_[running_].state == State::ready) resume(threads_[running_].fiber);
      }
    }
  }

  // The running thread's steps below are called on its fiber.
  Thread& self() { return threads_[running_]; }

  void wait(State state, std::source_location where) {
    self().state = state, self().where = where;
    go(self().fiber->place, scheduler_);
  }

  // What all lanes of the running thread's warp gave, valid until the next exchange.
  const std::array<Words, 32>& exchange(const Words& given, bool whole_warp, std::source_location where) {
    self().given = given, self().whole_warp = whole_warp;
    wait(State::at_exchange, where);
    return exchanged_[running_ / 32];
  }
  int lane() const { return int(running_ % 32); }

  // A fiber takes threads that have not begun and runs them; without any, it is idle.
  void serve() {
    Fiber* fiber = on_;
    while (true) {
      while (started_ < threads_.size()) {
        running_ = turn(started_++);
        self().fiber = fiber;
        set_index();
        (*body_)();
        self().state = State::ended;
        ++ended_;
      }
      idle_.push_back(fiber);
      go(fiber->place, scheduler_);
    }
  }

 private:
  size_t turn(size_t i) const { return reversed_ ? threads_.size() - 1 - i : i; }

  void number_threads() {
    if (blockDim.x == numbered_.x && blockDim.y == numbered_.y && blockDim.z == numbered_.z) return;
    numbered_ = blockDim;
    indices_.clear();
    for (unsigned z = 0; z < blockDim.z; ++z)
      for (unsigned y = 0; y < blockDim.y; ++y)
        for (unsigned x = 0; x < blockDim.x; ++x) indices_.emplace_back(x, y, z);
  }

  // Not inlined: a fiber may go on in another host thread, whose threadIdx is at another address.
  [[gnu::noinline]] void set_index() const { threadIdx = indices_[running_]; }

  void resume(Fiber* fiber) {
    on_ = fiber;
    set_index();
    go(scheduler_, fiber->place);
  }

  Fiber* idle_fiber();

  // Called when no thread can go on: releases those whose partners have all arrived, or finds the fault.
  void release() {
    bool any = false;
    for (size_t warp = 0; warp < threads_.size(); warp += 32) any |= release_exchange(warp);
    if (!any) release_barrier();
  }

  bool release_exchange(size_t warp) {
    const auto begin = threads_.begin() + long(warp), end = threads_.begin() + long(std::min(warp + 32, threads_.size()));
    const auto waits = [](const Thread& thread) { return thread.state == State::at_exchange; };
    const auto joined = std::count_if(begin, end, waits);
    if (joined == 0) return false;
    const Thread& one = *std::find_if(begin, end, waits);
    if (joined < 32)
      fault("the shuffle at " + line_of(one.where) + " is joined by " + std::to_string(joined) + " of the 32 lanes of a warp");
    for (auto lane = begin; lane != end; ++lane) {
      if (!same(lane->where, one.where))
        fault("lanes of a warp are at different shuffles, " + line_of(one.where) + ", " + line_of(lane->where));
      if (!lane->whole_warp) fault("the shuffle at " + line_of(one.where) + " names no full warp");
      exchanged_[warp / 32][size_t(lane - begin)] = lane->given;
    }
    for (auto lane = begin; lane != end; ++lane) lane->state = State::ready;
    return true;
  }

  void release_barrier() {
    const auto one = std::find_if(threads_.begin(), threads_.end(), [](const Thread& thread) { return thread.state == State::at_barrier; });
    if (ended_ > 0) {
      fault("the barrier at " + line_of(one->where) + " is reached by " + std::to_string(threads_.size() - ended_) + " of the " +
            std::to_string(threads_.size()) + " threads; the others have ended");
    }
    for (const Thread& thread : threads_)
      if (!same(thread.where, one->where))
        fault("threads are at different barriers, " + line_of(one->where) + ", " + line_of(thread.where));
    for (Thread& thread : threads_) thread.state = State::ready;
  }

  Place scheduler_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::vector<Thread> threads_;                      // x fastest
  std::array<std::array<Words, 32>, 32> exchanged_;  // by warp and lane
  dim3 numbered_{0, 0, 0};
  std::vector<dim3> indices_;  // of the threads of a block of that size
  const std::function<void()>* body_ = nullptr;
  Fiber* on_ = nullptr;
  size_t running_ = 0, started_ = 0, ended_ = 0;
  bool reversed_ = false;
};

// The calling thread's. A thread that ends leaves its stacks to the next one.
class OwnBlock {
 public:
  ~OwnBlock() { reset(true); }
  Block* get() {
    const std::lock_guard lock(mutex_);
    if (!block_ && !left_.empty()) block_ = std::move(left_.back()), left_.pop_back();
    if (!block_) block_ = std::make_unique<Block>();
    return block_.get();
  }
  void reset(bool whole) {
    const std::lock_guard lock(mutex_);
    if (whole && block_) left_.push_back(std::move(block_));
    block_.reset();
  }

 private:
  inline static std::mutex mutex_;
  inline static std::vector<std::unique_ptr<Block>> left_;
  std::unique_ptr<Block> block_;
};
thread_local OwnBlock own;
thread_local Block* block = nullptr;
void fiber_main() { block->serve(); }

Fiber* Block::idle_fiber() {
  if (idle_.empty()) return fibers_.emplace_back(new Fiber(fiber_main)).get();
  Fiber* fiber = idle_.back();
  idle_.pop_back();
  return fiber;
}

}  // namespace

void emulate(dim3 grid, dim3 block_size, const std::function<void()>& thread) {
  gridDim = grid, blockDim = block_size;
  const uint64_t threads = uint64_t(block_size.x) * block_size.y * block_size.z;
  if (threads == 0 || threads > 1024 || block_size.z > 64) throw Error("emulator: no block has " + std::to_string(threads) + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw Error("emulator: no grid is " + std::to_string(grid.x) + "x" + std::to_string(grid.y) + "x" + std::to_string(grid.z));
  if (!block) block = own.get();
  try {
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = dim3(x, y, z);
          block->run(thread);
        }
  } catch (...) {
    block = nullptr, own.reset(false);  // its fibers are in the middle of threads that cannot end
    throw;
  }
}

}  // namespace pipecast

void __syncthreads(std::source_location where) { pipecast::block->wait(pipecast::State::at_barrier, where); }

float __shfl_xor_sync(unsigned lanes, float value, int lane_mask, std::source_location where) {
  const bool whole_warp = lanes == ~0u && lane_mask >= 0 && lane_mask < 32;
  const auto& all = pipecast::block->exchange({std::bit_cast<uint32_t>(value)}, whole_warp, where);
  return std::bit_cast<float>(all[size_t(pipecast::block->lane() ^ lane_mask)][0]);
}

// Of the 16 rows of `a` a lane has two, of the 8 columns of `b` one: it collects what it lacks from the others.
void pipecast::emulated_multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], std::source_location where) {
  const auto& all = block->exchange({a[0], a[1], a[2], a[3], b[0], b[1]}, true, where);
  const int g = block->lane() / 4, t = block->lane() % 4;
  const auto element = [](uint32_t word, int k) { return std::bit_cast<float>(k % 2 ? word & 0xffff0000u : word << 16); };
  for (int i = 0; i < 4; ++i) {
    const int row = i / 2, column = 2 * t + i % 2;
    double total = 0;
    for (int k = 0; k < 16; ++k) {
      const int half = k / 8, pair = k % 8 / 2;
      total += double(element(all[size_t(4 * g + pair)][size_t(2 * half + row)], k)) *
               double(element(all[size_t(4 * column + pair)][size_t(4 + half)], k));
    }
    sum[i] = float(double(sum[i]) + total);
  }
}
