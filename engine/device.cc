#include "engine/device.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/format.h"

#ifdef PIPECAST_ONEDNN
#include <dnnl.hpp>
#endif
#ifdef PIPECAST_CUDA
#include <cublas_v2.h>
#include <cudnn.h>
#endif

namespace pipecast {

DeviceOwner::DeviceOwner(const std::string& name, const std::string& math) {
  if (name != "cpu" && name != "cuda") throw UsageError(unknown_name("device", name, {"cpu", "cuda"}));
  if (math != "fp32" && math != "tf32" && math != "bf16") throw UsageError(unknown_name("math", math, {"fp32", "tf32", "bf16"}));
  if (name == "cpu") {
    if (math == "tf32") throw UsageError("math 'tf32': the host computes in fp32 only; use 'fp32', 'bf16', or device 'cuda'");
    return;
  }
#ifdef PIPECAST_CUDA
  if (!gpu_present()) {
    throw UsageError(
        "device 'cuda': no GPU that CUDA can use was found; check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES, or use 'cpu'");
  }
  int gpu = 0, generation = 0;
  check(cudaGetDevice(&gpu));
  check(cudaDeviceGetAttribute(&generation, cudaDevAttrComputeCapabilityMajor, gpu));
  device_.tf32 = math != "fp32";  // what bf16 leaves in fp32 need not be more exact
  if (device_.tf32 && generation < 8) {
    throw UsageError("math '" + math + "': this GPU has compute capability " + std::to_string(generation) +
                     " and what it needs begins with 8; use 'fp32'");
  }
  check(cudaStreamCreateWithFlags(&device_.stream, cudaStreamNonBlocking));
  cudaError_t status = cudaMalloc(&device_.scratch, device_scratch_floats * sizeof(float));
  if (status != cudaSuccess) {
    cudaStreamDestroy(device_.stream);
    check(status);
  }
  device_.gpu = true;
#else
  throw UsageError(
      "device 'cuda': this binary was built without CUDA; build with -Dcuda=enabled where the CUDA toolkit is installed, or use 'cpu'");
#endif
}

Storage activation_storage(const std::string& math) { return math == "bf16" ? Storage::bf16 : Storage::fp32; }

DeviceOwner::~DeviceOwner() {
#ifdef PIPECAST_CUDA
  if (!device_.gpu) return;
  cudaFree(device_.scratch);
  cudaStreamDestroy(device_.stream);
#endif
}

bool gpu_present() {
#ifdef PIPECAST_CUDA
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
#else
  return false;
#endif
}

std::string library_versions() {
  std::string text;
#ifdef PIPECAST_ONEDNN
  const dnnl_version_t* dnnl = dnnl_version();
  text += "oneDNN " + std::to_string(dnnl->major) + "." + std::to_string(dnnl->minor) + "." + std::to_string(dnnl->patch) + "\n";
#endif
#ifdef PIPECAST_CUDA
  auto three = [](size_t version, size_t major) {  // as the libraries pack them: major * M + minor * 100 + patch
    return std::to_string(version / major) + "." + std::to_string(version % major / 100) + "." + std::to_string(version % 100);
  };
  int runtime = 0, blas[3] = {};
  check(cudaRuntimeGetVersion(&runtime));
  const libraryPropertyType parts[3] = {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
  for (int i = 0; i < 3; ++i) cublasGetProperty(parts[i], &blas[i]);
  text += "CUDA " + std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10) + "\n";
  text += "cuBLAS " + std::to_string(blas[0]) + "." + std::to_string(blas[1]) + "." + std::to_string(blas[2]) + "\n";
  text += "cuDNN " + three(cudnnGetVersion(), 10000) + "\n";
#endif
  return text;
}

void copy(Device d, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
#ifdef PIPECAST_CUDA
  if (d.gpu) return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, d.stream));
#endif
  (void)d;
  std::memcpy(to, from, bytes);
}

void fill_zero(Device d, void* to, size_t bytes) {
  if (bytes == 0) return;
#ifdef PIPECAST_CUDA
  if (d.gpu) return check(cudaMemsetAsync(to, 0, bytes, d.stream));
#endif
  (void)d;
  std::memset(to, 0, bytes);
}

void synchronize(Device d) {
#ifdef PIPECAST_CUDA
  if (d.gpu) check(cudaStreamSynchronize(d.stream));
#endif
  (void)d;
}

Event::Event(Event&& other) noexcept { *this = std::move(other); }

#ifdef PIPECAST_CUDA
Event::Event(Device d) {
  if (d.gpu) check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
}
Event::~Event() {
  if (event_) cudaEventDestroy(event_);
}
Event& Event::operator=(Event&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}
void Event::set(Device d) {
  if (event_) check(cudaEventRecord(event_, d.stream));
}
void Event::hold_back(Device d) {
  if (event_) check(cudaStreamWaitEvent(d.stream, event_, 0));
}
void Event::wait() {
  if (event_) check(cudaEventSynchronize(event_));
}
#else
Event::Event(Device) {}
Event::~Event() = default;
Event& Event::operator=(Event&&) noexcept { return *this; }
void Event::set(Device) {}
void Event::hold_back(Device) {}
void Event::wait() {}
#endif

namespace {

void check_limit(int asked) {
  const int most = omp_get_thread_limit();
  if (asked > most)
    throw UsageError("OMP_THREAD_LIMIT=" + std::to_string(most) + " allows fewer threads than the " + std::to_string(asked) +
                     " asked for; unset it, or give --threads " + std::to_string(most));
}

}  // namespace

void set_threads(int threads) {
  if (threads < 1) throw UsageError("the number of threads is " + std::to_string(threads) + "; it must be at least 1");
  check_limit(threads);
  // Settings of the calling thread alone: a new thread has those of the environment again.
  omp_set_dynamic(0);
  if (omp_get_max_active_levels() < 1) omp_set_max_active_levels(1);
  omp_set_num_threads(threads);
}

int threads() { return std::min(omp_get_max_threads(), omp_get_thread_limit()); }

int threads_asked_for(int asked) {
  check_limit(asked);
  // Each waits for all the others at the end of every kernel, so many on few cores take minutes for what one does in a second.
  const int cores = omp_get_num_procs(), most = std::max(64, 4 * cores);
  if (asked > most)
    throw UsageError(format("%d threads are too many for the %d cores here: give --threads %d or fewer", asked, cores, most));
  return asked == 0 ? threads() : asked;
}

}  // namespace pipecast
