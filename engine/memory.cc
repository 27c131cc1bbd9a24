#include "engine/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <numeric>
#include <string>
#include <utility>

namespace pipecast {

namespace {

std::atomic<int64_t> in_use{0}, peak{0};

void count(int64_t bytes) {
  int64_t now = in_use += bytes, most = peak;
  while (now > most && !peak.compare_exchange_weak(most, now)) {
  }
}

// Large blocks in large pages, where the system has them for those who ask: a pass walks over hundreds of megabytes, and an entry
// of the processor's table of pages then covers 2 MiB in place of 4 KiB.
void* host_block(size_t bytes) {
  constexpr size_t large_page = 2 << 20;
  if (bytes < 2 * large_page) return std::aligned_alloc(64, bytes);
  void* block = std::aligned_alloc(large_page, (bytes + large_page - 1) / large_page * large_page);
#ifdef MADV_HUGEPAGE
  if (block) madvise(block, bytes, MADV_HUGEPAGE);
#endif
  return block;
}

// Without CUDA there is host memory only, also for a Device that says gpu: the emulator of tests.
bool on_gpu([[maybe_unused]] Device d) {
#ifdef PIPECAST_CUDA
  return d.gpu;
#else
  return false;
#endif
}

size_t bytes_of(int64_t floats) {
  if (floats < 0 || floats > INT64_MAX / 8)
    throw Error("memory: " + std::to_string(floats) + " floats were asked for; no such size exists");
  return size_t(aligned(floats)) * sizeof(float);
}

[[noreturn]] void refuse(size_t bytes, const char* where) {
  throw Error("memory: " + std::to_string(bytes) + " bytes were asked for and the " + where +
              " has no such block left; use smaller batches or more stages");
}

}  // namespace

Memory::Memory(Device device, int64_t floats) : device_(device), size_(floats) {
  const size_t bytes = bytes_of(floats);
  if (floats == 0) return;
#ifdef PIPECAST_CUDA
  if (device.gpu && cudaMalloc(&data_, bytes) != cudaSuccess) {
    cudaGetLastError();  // reported here: the next call must not report it again
    data_ = nullptr;
  }
#endif
  if (!on_gpu(device)) data_ = static_cast<float*>(host_block(bytes));
  if (!data_) refuse(bytes, device.gpu ? "GPU" : "host");
  fill_zero(device, data_, bytes);
  synchronize(device);
  count(size_ * int64_t(sizeof(float)));
}

Memory::~Memory() {
  if (!data_) return;
  count(-size_ * int64_t(sizeof(float)));
#ifdef PIPECAST_CUDA
  if (device_.gpu) cudaFree(data_);
#endif
  if (!on_gpu(device_)) std::free(data_);
}

Memory::Memory(Memory&& other) noexcept
    : device_(other.device_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

HostMemory::HostMemory(Device device, int64_t floats) {
  const size_t bytes = bytes_of(floats);
  if (floats == 0) return;
#ifdef PIPECAST_CUDA
  if (device.gpu) {
    float* data = nullptr;
    if (cudaMallocHost(&data, bytes) != cudaSuccess) cudaGetLastError();  // reported here: the next call must not report it again
    else data_ = {data, [](float* locked) { cudaFreeHost(locked); }};
  }
#endif
  if (!on_gpu(device)) data_ = {static_cast<float*>(std::aligned_alloc(64, bytes)), [](float* plain) { std::free(plain); }};
  if (!data_) refuse(bytes, "host");
}

int64_t memory_in_use() { return in_use; }
int64_t memory_peak() { return peak; }

Placement place(const std::vector<Lifetime>& tensors) {
  Placement placement{std::vector<int64_t>(tensors.size(), 0), 0};
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return tensors[a].floats > tensors[b].floats; });

  std::vector<size_t> placed;  // by rising offset
  for (size_t i : order) {
    const Lifetime& tensor = tensors[i];
    if (tensor.floats == 0) continue;
    int64_t offset = 0;
    for (size_t j : placed) {
      const Lifetime& neighbour = tensors[j];
      if (neighbour.last < tensor.first || tensor.last < neighbour.first) continue;
      if (offset + aligned(tensor.floats) <= placement.offsets[j]) break;
      offset = std::max(offset, placement.offsets[j] + aligned(neighbour.floats));
    }
    placement.offsets[i] = offset;
    placement.total = std::max(placement.total, offset + aligned(tensor.floats));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset, [&](int64_t o, size_t j) { return o < placement.offsets[j]; }), i);
  }
  return placement;
}

}  // namespace pipecast
