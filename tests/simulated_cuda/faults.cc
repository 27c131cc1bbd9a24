// What the machine says about mistakes, and what it must not leave behind.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "tests/simulated_cuda/machine.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreSyncBegin(const char*, int);
void AnnotateIgnoreSyncEnd(const char*, int);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace simulated_cuda {

namespace {

std::mutex& the_mutex() {
  static std::mutex& mutex = *new std::mutex;  // outlives everything
  return mutex;
}

std::mutex& unwatched() {
#ifdef __SANITIZE_THREAD__
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
#endif
  return the_mutex();
}

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t broken_by = cudaSuccess;

// Objects that live, by kind. Its end is that of the process: whoever uses the machine first makes it, and so dies before it.
struct Census {
  std::map<std::string, std::set<void*>> living;

  ~Census() {
    if (broken_by != cudaSuccess) return;
    drain();
    std::string left;
    for (const auto& [kind, objects] : living)
      if (!objects.empty()) left += (left.empty() ? "" : ", ") + std::to_string(objects.size()) + " " + kind;
    if (left.empty()) return;
    say("at exit these were not given back: " + left);
    std::_Exit(86);
  }
};
Census& census() {
  static Census all;
  return all;
}

}  // namespace

Lock::Lock() : lock_(unwatched()) {}
Lock::~Lock() {
  lock_.unlock();
#ifdef __SANITIZE_THREAD__
  AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
}

#ifdef __SANITIZE_THREAD__
void publish(void* place) { __tsan_release(place); }
void observe(void* place) { __tsan_acquire(place); }
#else
void publish(void*) {}
void observe(void*) {}
#endif

void say(const std::string& what) { std::fprintf(stderr, "simulated CUDA: %s\n", what.c_str()); }

void stop(const std::string& what) {
  say(what);
  std::abort();
}

cudaError_t error(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}
cudaError_t error(cudaError_t status, const std::string& what) {
  say(what);
  return error(status);
}

cudaError_t broken() {
  const Lock lock;
  return error(broken_by);
}
void break_device(cudaError_t status) {
  const Lock lock;
  if (broken_by == cudaSuccess) broken_by = status;
}

void born(const char* kind, void* object) {
  const Lock lock;
  census().living[kind].insert(object);
}
bool died(const char* kind, void* object) {
  const Lock lock;
  return census().living[kind].erase(object) == 1;
}
bool lives(const char* kind, void* object) {
  const Lock lock;
  return census().living[kind].contains(object);
}

}  // namespace simulated_cuda

using namespace simulated_cuda;

cudaError_t cudaGetLastError() {
  const cudaError_t sticky = broken();
  const cudaError_t last = last_error;
  last_error = cudaSuccess;
  return sticky != cudaSuccess ? sticky : last;
}

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorIllegalState: return "the operation cannot be performed in the present state";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorMisalignedAddress: return "misaligned address";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnmatched: return "capture was not initiated in this stream";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorStreamCaptureWrongThread: return "attempt to terminate a thread-local capture sequence from another thread";
  }
  return "unrecognized error code";
}

cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, broken(); }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, broken(); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return error(cudaErrorInvalidDevice);
  if (attribute == cudaDevAttrComputeCapabilityMajor) *value = 9;
  else if (attribute == cudaDevAttrComputeCapabilityMinor) *value = 0;
  else return error(cudaErrorInvalidValue);
  return broken();
}
