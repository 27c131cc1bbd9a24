#pragma once
// Where work runs: the host's threads, or one CUDA stream. First argument of everything that computes.
#include <cstddef>
#include <cstdint>

#include "engine/error.h"
#include "engine/storage.h"
#ifdef PIPECAST_CUDA
#include <cuda_runtime.h>
#endif

namespace pipecast {

#ifdef PIPECAST_CUDA
using Stream = cudaStream_t;
inline void check(cudaError_t status, std::source_location where = std::source_location::current()) {
  if (status != cudaSuccess) fail("CUDA", cudaGetErrorString(status), where);
}
#else
using Stream = void*;
#endif

// A plain handle, cheap to copy. `scratch` is memory on the device for partial sums of reductions (see columns() in launch.h) and
// for cuBLAS, in the order of the stream; null on the host, whose partial sums live in the calling thread.
struct Device {
  bool gpu = false;
  Stream stream = nullptr;
  float* scratch = nullptr;
  bool tf32 = false;  // see DeviceOwner
};
constexpr int64_t device_scratch_floats = 1 << 20;

// Owns a stream and its scratch memory. name: "cpu" or "cuda"; throws UsageError where there is no such device.
// math: "fp32"; "tf32" on a GPU: convolutions and matrix products round what they multiply to 10 bits of mantissa and add in fp32; or
// "bf16": activations and their gradients are stored in bfloat16 (7 bits of mantissa), which on a GPU convolutions multiply, too.
class DeviceOwner {
 public:
  explicit DeviceOwner(const std::string& name = "cpu", const std::string& math = "fp32");
  ~DeviceOwner();
  DeviceOwner(const DeviceOwner&) = delete;
  DeviceOwner& operator=(const DeviceOwner&) = delete;
  Device get() const { return device_; }

 private:
  Device device_;
};

// How activations and their gradients are stored with this `math`.
Storage activation_storage(const std::string& math);

bool gpu_present();

// One line per library this binary was built with, name and version: what `pipecast info` prints.
std::string library_versions();

// Copies bytes between any two places in the order of the device's stream; returns before it is done on a GPU.
void copy(Device, void* to, const void* from, size_t bytes);
void fill_zero(Device, void* to, size_t bytes);
// Waits until all work given to the device is done. No effect on the host, where every call is done when it returns.
void synchronize(Device);

// A point in the work given to a device, for others to wait for. Waiting for one that was never set returns at once. No effect on the host.
class Event {
 public:
  Event() = default;
  explicit Event(Device);
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;

  void set(Device);        // the point is after all work that the device was given so far
  void hold_back(Device);  // work given to this device from now on begins after the point; the calling thread does not wait
  void wait();             // the calling thread waits for the point

 private:
#ifdef PIPECAST_CUDA
  cudaEvent_t event_ = nullptr;
#endif
};

// Number of threads that host kernels called from this thread may use (one OpenMP pool, shared with oneDNN). From then on OMP_DYNAMIC and
// OMP_MAX_ACTIVE_LEVELS take none of them away: oneDNN's results are wrong where it gets fewer threads than it planned for. Throws
// UsageError where OMP_THREAD_LIMIT allows fewer.
void set_threads(int threads);
int threads();
// As many as a user asked for; 0: threads(). Throws UsageError where OMP_THREAD_LIMIT allows fewer, or there are far fewer cores.
int threads_asked_for(int threads);

}  // namespace pipecast
