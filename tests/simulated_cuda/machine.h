#pragma once
// The inside of the simulated CUDA machine, shared by its files:
//
//   memory.cc   device and page-locked memory: guards, protection from the host, faults
//   streams.cc  queues of operations, each served by a thread of its own; events; copies
//   capture.cc  CUDA graphs
//   cublas.cc, cudnn.cc   the libraries
//
// What it finds wrong it says on standard error in a line that begins with "simulated CUDA:". Where NVIDIA documents a status for the
// mistake the call returns it; what would be undefined behaviour ends the process.
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace simulated_cuda {

// ---------------------------------------------------------------------------------------------------------------------
// The lock of the machine's own lists. The thread sanitizer does not see it, nor what it guards: else it would take the lock for an order
// between streams that nothing in CUDA promises. The order that is promised is told to it by publish() and observe().

class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  template <class Ready>
  void wait(std::condition_variable& condition, const Ready& ready) {
    condition.wait(lock_, ready);
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

// What was done before publish() happened before all that follows observe() of the same place.
void publish(void* place);
void observe(void* place);

// ---------------------------------------------------------------------------------------------------------------------
// Faults

void say(const std::string& what);  // on standard error
[[noreturn]] void stop(const std::string& what);

// An error of the calling thread, for cudaGetLastError(); returned for convenience.
cudaError_t error(cudaError_t);
cudaError_t error(cudaError_t, const std::string& what);
// The error that broke the device for good, or success: every call returns it from then on.
cudaError_t broken();
void break_device(cudaError_t);

// ---------------------------------------------------------------------------------------------------------------------
// Memory

struct Allocation {
  char* data = nullptr;
  size_t bytes = 0;
  char* mapping = nullptr;  // whole pages, with one that nobody may touch at either end
  size_t mapped = 0;
  bool on_device = true;
  bool freed = false;
  int users = 0;  // streams that work now and may touch it
};
using Allocations = std::vector<std::shared_ptr<Allocation>>;

// The allocation that the address lies in, freed ones included; null where there is none.
std::shared_ptr<Allocation> allocation_of(const void* address);
// The same for a whole range of memory that is not freed.
std::shared_ptr<Allocation> allocation_of(const void* address, size_t bytes);
// Adds the allocations of all addresses that may stand in these bytes: what a kernel with such an argument can reach.
void add_reached(Allocations&, const void* argument, size_t bytes);
// While a stream works, and only then, the device memory of its operations may be touched. Both are called under the lock.
void open(const Allocations&);
void close(const Allocations&);
// Overwrites memory as a library does that uses it for itself.
void poison(void* memory, size_t bytes);
// Runs work of an operation. An access to memory that is not open, or a misaligned one, ends it with CUDA's error.
cudaError_t run_on_device(const std::function<void()>& work);

// ---------------------------------------------------------------------------------------------------------------------
// Streams

struct Operation {
  std::function<void()> work;
  Allocations reached;
  std::shared_ptr<Operation> after;  // of another stream
  CUstream_st* stream = nullptr;
  int64_t number = 0;  // within its stream
  bool done = false;
  char begun = 0, ended = 0;  // places to publish
};
using Point = std::shared_ptr<Operation>;

// Gives work to a stream, or to the graph that is captured from it.
cudaError_t submit(cudaStream_t, Allocations reached, std::function<void()> work);
// Waits until the device has nothing to do.
void drain();
// In place of SIMULATED_CUDA_SEED, for streams made from now on.
void set_seed(uint64_t);
// Whether the handle is one of a stream that lives.
bool is_stream(cudaStream_t);

// ---------------------------------------------------------------------------------------------------------------------
// Capture

struct Recorded {
  Allocations reached;
  std::function<void()> work;
};

// What a capture of the stream says to a call that cannot be captured; success where it is not captured. A refusal spoils the capture.
cudaError_t refuse_in_capture(cudaStream_t, const char* call);
// The same for a call that any capture of the calling thread forbids: it takes or gives back memory.
cudaError_t refuse_in_any_capture(const char* call);
// Whether the stream is captured; the work is then recorded, and the status is the call's.
bool captured(cudaStream_t, Recorded, cudaError_t* status);

// ---------------------------------------------------------------------------------------------------------------------
// What lives and must be destroyed before the process ends: handles, descriptors, graphs, streams, events, memory.

void born(const char* kind, void* object);
// False where there is no such object.
bool died(const char* kind, void* object);
bool lives(const char* kind, void* object);

}  // namespace simulated_cuda
