// Streams as queues, each served by a thread of its own, and in an order that a seed makes adversarial.
//
// The environment variable SIMULATED_CUDA_SEED is a number. 0: every stream works as soon as it can. Any other draws a character for each
// stream: one that is prompt, one that does nothing until somebody waits for it, or one that stops now and then until somebody does. All
// of them are what CUDA allows, so results must not depend on it.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "tests/simulated_cuda/machine.h"

struct CUstream_st {
  uint64_t character = 0;  // drawn by the seed; 0: works as soon as it can
  std::deque<simulated_cuda::Point> queue;
  simulated_cuda::Point last;
  int64_t given = 0, forced = -1;  // operations given so far; the last one that somebody waits for
  bool destroyed = false;
  std::condition_variable wake;
  std::thread thread;
};

struct CUevent_st {
  simulated_cuda::Point point;
  bool in_capture = false;
};

namespace simulated_cuda {

namespace {

constexpr size_t longest_queue = 1000;

// All below is guarded by the machine's lock.
std::vector<std::unique_ptr<CUstream_st>>& streams() {
  static auto& all = *new std::vector<std::unique_ptr<CUstream_st>>;
  return all;
}
int64_t streams_made = 0;
std::condition_variable& finished() {
  static auto& condition = *new std::condition_variable;
  return condition;
}
int waiting = 0;

uint64_t seed = [] {
  const char* text = std::getenv("SIMULATED_CUDA_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 1;
}();

uint64_t mixed(uint64_t x) {  // the last step of splitmix64
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Whether the stream waits with this operation until somebody waits for it.
bool holds(const CUstream_st& stream, int64_t operation) {
  if (stream.character == 0) return false;
  const uint64_t chance = mixed(stream.character + uint64_t(operation)) % 64;
  switch (stream.character % 4) {
    case 0: return false;
    case 1: return true;
    case 2: return chance == 0;
    default: return chance < 8;
  }
}

bool may_begin(const CUstream_st& stream) {
  if (stream.queue.empty()) return false;
  const Operation& next = *stream.queue.front();
  return next.number <= stream.forced || !holds(stream, next.number);
}

// The point will be reached: what comes before it in its stream may not be held any longer, nor what that waits for.
void force(const Point& point) {
  if (!point || point->done) return;
  CUstream_st& stream = *point->stream;
  const int64_t from = std::max(stream.forced, stream.queue.front()->number - 1);
  if (from >= point->number) return;
  stream.forced = point->number;
  for (int64_t n = from + 1; n <= point->number; ++n) force(stream.queue[size_t(n - stream.queue.front()->number)]->after);
  stream.wake.notify_one();
}

void wait_until_done(Lock& lock, const Point& point) {
  if (point->done) return;
  ++waiting;
  lock.wait(finished(), [&] { return point->done; });
  --waiting;
}

void run(Operation& operation) {
  if (!operation.work) return;
  if (broken() == cudaSuccess) {
    const cudaError_t status = run_on_device(operation.work);
    if (status != cudaSuccess) break_device(status);
  }
  operation.work = nullptr;
}

void serve(CUstream_st& stream) {
  Allocations opened;  // until the stream has nothing to do: closing memory and opening it again takes time
  while (true) {
    Point next;
    {
      Lock lock;
      lock.wait(stream.wake, [&] { return may_begin(stream) || (stream.destroyed && stream.queue.empty()); });
      if (stream.queue.empty()) return;
      next = stream.queue.front();
      if (next->after) wait_until_done(lock, next->after);
      std::erase_if(next->reached, [&](const auto& a) { return std::find(opened.begin(), opened.end(), a) != opened.end(); });
      open(next->reached);
      opened.insert(opened.end(), next->reached.begin(), next->reached.end());
    }
    observe(&next->begun);
    if (next->after) observe(&next->after->ended);
    run(*next);
    publish(&next->ended);
    const Lock lock;
    next->after = nullptr;
    next->done = true;
    stream.queue.pop_front();
    if (!may_begin(stream) || stream.queue.front()->after) close(std::exchange(opened, {}));
    if (waiting > 0) finished().notify_all();
    next = nullptr;
  }
}

// Called under the lock.
Point enqueue(CUstream_st& stream, Point operation) {
  operation->stream = &stream, operation->number = stream.given++;
  stream.queue.push_back(operation);
  stream.last = operation;
  if (stream.queue.size() > longest_queue) force(stream.queue[longest_queue / 2]);
  stream.wake.notify_one();
  return operation;
}

Point give(cudaStream_t stream, Allocations reached, std::function<void()> work, Point after = nullptr) {
  auto operation = std::make_shared<Operation>();
  operation->reached = std::move(reached), operation->work = std::move(work), operation->after = std::move(after);
  publish(&operation->begun);
  const Lock lock;
  return enqueue(*stream, std::move(operation));
}

// For the calling thread.
void wait_for(const Point& point) {
  if (!point) return;
  {
    Lock lock;
    force(point);
    wait_until_done(lock, point);
  }
  observe(&point->ended);
}

Point last_of(cudaStream_t stream) {
  const Lock lock;
  return stream->last;
}

cudaError_t require_stream(cudaStream_t stream, const char* call) {
  if (is_stream(stream)) return cudaSuccess;
  return error(cudaErrorInvalidResourceHandle, std::string(call) + ": no such stream (the default stream is not simulated)");
}

// Those that were destroyed and have nothing left to do end.
void bury() {
  std::vector<std::unique_ptr<CUstream_st>> dead;
  {
    const Lock lock;
    auto& all = streams();
    for (auto& stream : all)
      if (stream->destroyed && stream->queue.empty()) stream->wake.notify_one(), dead.push_back(std::move(stream));
    std::erase(all, nullptr);
  }
  for (auto& stream : dead) stream->thread.join();
}

// ---------------------------------------------------------------------------------------------------------------------
// Copies

// Page-locked memory that a copy reads or writes, until it has.
struct Flight {
  const char *begin, *end;
  Point copy;
};
std::vector<Flight>& flights() {
  static auto& all = *new std::vector<Flight>;
  return all;
}

// Whether no copy under way has anything to do with the range.
bool at_rest(const char* begin, const char* end) {
  const Lock lock;
  std::erase_if(flights(), [](const Flight& f) { return f.copy->done; });
  return std::none_of(flights().begin(), flights().end(), [&](const Flight& f) { return begin < f.end && f.begin < end; });
}

uint64_t fingerprint(const void* memory, size_t bytes) {
  const auto* data = static_cast<const char*>(memory);
  uint64_t sum = 0;
  for (size_t at = 0; at < bytes; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, data + at, std::min<size_t>(8, bytes - at));
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    sum ^= sum >> 29;
  }
  return sum;
}

// From page-locked memory to the device: what the host changes before the copy has been made would be copied, or not.
std::function<void()> checked_copy(void* to, const void* from, size_t bytes) {
  return [=, expected = fingerprint(from, bytes)] {
    if (fingerprint(from, bytes) != expected) stop("page-locked memory was written while a copy from it was under way");
    std::memcpy(to, from, bytes);
  };
}

}  // namespace

bool is_stream(cudaStream_t stream) { return lives("streams", stream); }

void set_seed(uint64_t value) {
  const Lock lock;
  seed = value, streams_made = 0;
}

void drain() {
  std::vector<Point> last;
  {
    const Lock lock;
    for (const auto& stream : streams()) last.push_back(stream->last);
  }
  for (const Point& point : last) wait_for(point);
  bury();
}

cudaError_t submit(cudaStream_t stream, Allocations reached, std::function<void()> work) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (const cudaError_t status = require_stream(stream, "work"); status != cudaSuccess) return status;
  cudaError_t status = cudaSuccess;
  if (captured(stream, {reached, work}, &status)) return error(status);
  give(stream, std::move(reached), std::move(work));
  return cudaSuccess;
}

}  // namespace simulated_cuda

using namespace simulated_cuda;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (!stream || flags != cudaStreamNonBlocking)
    return error(cudaErrorInvalidValue, "cudaStreamCreateWithFlags: only streams that do not wait for the default stream are simulated");
  auto made = std::make_unique<CUstream_st>();
  *stream = made.get();
  {
    const Lock lock;
    made->character = seed == 0 ? 0 : mixed(mixed(seed) + uint64_t(++streams_made));
    streams().push_back(std::move(made));
  }
  (*stream)->thread = std::thread([s = *stream] { serve(*s); });
  born("streams", *stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (const cudaError_t status = require_stream(stream, "cudaStreamDestroy"); status != cudaSuccess) return status;
  if (const cudaError_t refused = refuse_in_capture(stream, "cudaStreamDestroy"); refused != cudaSuccess) return error(refused);
  died("streams", stream);
  const Lock lock;
  stream->destroyed = true;  // what it was given is still done
  stream->wake.notify_one();
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (const cudaError_t status = require_stream(stream, "cudaStreamSynchronize"); status != cudaSuccess) return status;
  if (const cudaError_t refused = refuse_in_capture(stream, "cudaStreamSynchronize"); refused != cudaSuccess) return error(refused);
  wait_for(last_of(stream));
  return broken();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (!event || (flags != cudaEventDefault && flags != cudaEventDisableTiming)) return error(cudaErrorInvalidValue);
  *event = new CUevent_st;
  born("events", *event);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (!died("events", event)) return error(cudaErrorInvalidResourceHandle, "cudaEventDestroy: no such event");
  const Lock lock;
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (const cudaError_t status = require_stream(stream, "cudaEventRecord"); status != cudaSuccess) return status;
  if (!lives("events", event)) return error(cudaErrorInvalidResourceHandle, "cudaEventRecord: no such event");
  cudaError_t status = cudaSuccess;
  const bool in_capture = captured(stream, {}, &status);
  const Point point = in_capture ? nullptr : give(stream, {}, nullptr);
  const Lock lock;
  event->point = point, event->in_capture = in_capture;
  return error(status);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (!lives("events", event)) return error(cudaErrorInvalidResourceHandle, "cudaEventSynchronize: no such event");
  Point point;
  bool in_capture = false;
  {
    const Lock lock;
    point = event->point, in_capture = event->in_capture;
  }
  if (in_capture) return error(cudaErrorCapturedEvent, "cudaEventSynchronize: the event was recorded in a capture");
  wait_for(point);
  return broken();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (const cudaError_t status = require_stream(stream, "cudaStreamWaitEvent"); status != cudaSuccess) return status;
  if (!lives("events", event) || flags != 0) return error(cudaErrorInvalidResourceHandle, "cudaStreamWaitEvent: no such event");
  Point point;
  bool in_capture = false;
  {
    const Lock lock;
    point = event->point, in_capture = event->in_capture;
  }
  cudaError_t status = cudaSuccess;
  if (captured(stream, {}, &status)) {
    if (in_capture || status != cudaSuccess) return error(status);
    return error(cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent: a captured stream was to wait for work that is not captured");
  }
  if (in_capture) return error(cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent: a capture that spans several streams is not simulated");
  if (point && point->stream != stream) give(stream, {}, nullptr, point);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (const cudaError_t status = require_stream(stream, "cudaMemcpyAsync"); status != cudaSuccess) return status;
  if (bytes == 0) return cudaSuccess;
  if (!to || !from || kind != cudaMemcpyDefault) return error(cudaErrorInvalidValue, "cudaMemcpyAsync: a null address, or a kind that is not simulated");
  Allocations reached;
  struct Side {
    bool device = false, locked = false;
  } source, target;
  for (auto [address, side] : {std::pair(from, &source), std::pair(static_cast<const void*>(to), &target)}) {
    const auto touched = allocation_of(address);
    if (!touched) continue;  // pageable memory of the host
    const auto whole = allocation_of(address, bytes);
    if (!whole) return error(cudaErrorInvalidValue, "cudaMemcpyAsync: " + std::to_string(bytes) + " bytes do not lie in the allocation, or it is freed");
    side->device = whole->on_device, side->locked = !whole->on_device;
    if (side->device) reached.push_back(whole);
  }
  const bool pageable = (!source.device && !source.locked) || (!target.device && !target.locked);
  if (pageable)
    if (const cudaError_t refused = refuse_in_capture(stream, "cudaMemcpyAsync with pageable memory"); refused != cudaSuccess) return error(refused);

  if (!target.device && !source.device) {  // documented to be synchronous
    wait_for(last_of(stream));
    std::memcpy(to, from, bytes);
    return broken();
  }
  if (pageable && target.device) {  // it has been read when the call returns
    const auto* read = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(read, read + bytes);
    return submit(stream, std::move(reached), [=] { std::memcpy(to, staged->data(), bytes); });
  }
  if (pageable) {
    std::vector<char> staged(bytes);
    const cudaError_t status = submit(stream, std::move(reached), [&] { std::memcpy(staged.data(), from, bytes); });
    if (status != cudaSuccess) return status;
    wait_for(last_of(stream));
    std::memcpy(to, staged.data(), bytes);
    return broken();
  }
  if (source.device && target.device) return submit(stream, std::move(reached), [=] { std::memmove(to, from, bytes); });

  // Page-locked memory.
  const std::function<void()> plain = [=] { std::memcpy(to, from, bytes); };
  cudaError_t in_capture = cudaSuccess;
  if (captured(stream, {reached, plain}, &in_capture)) return error(in_capture);
  const auto* host = static_cast<const char*>(source.locked ? from : to);
  const bool rests = at_rest(host, host + bytes);
  if (target.locked && rests) poison(to, bytes);  // until it is waited for, nothing need be there
  const auto work = source.locked && rests ? checked_copy(to, from, bytes) : plain;
  const Point copy = give(stream, std::move(reached), work);
  const Lock lock;
  flights().push_back({host, host + bytes, copy});
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const auto whole = allocation_of(to, bytes);
  if (!whole || !whole->on_device)
    return error(cudaErrorInvalidValue, "cudaMemsetAsync: " + std::to_string(bytes) + " bytes are not those of an allocation");
  return submit(stream, {whole}, [=] { std::memset(to, value, bytes); });
}
