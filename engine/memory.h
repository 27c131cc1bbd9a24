#pragma once
// Memory is allocated before the first step and only then: one block per purpose, laid out in advance.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/device.h"

namespace pipecast {

// Owns one block on the device, aligned to 64 bytes and filled with zeros. Movable, not copyable.
class Memory {
 public:
  Memory() = default;
  Memory(Device, int64_t floats);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;

  float* data() const { return data_; }
  int64_t size() const { return size_; }  // floats

 private:
  Device device_;
  float* data_ = nullptr;
  int64_t size_ = 0;
};

// A block on the host, page-locked where the device is a GPU, so that copies to the device run while the host goes on. Aligned to 64 bytes;
// not counted below.
class HostMemory {
 public:
  HostMemory() = default;
  HostMemory(Device, int64_t floats);
  float* data() const { return data_.get(); }

 private:
  std::unique_ptr<float, void (*)(float*)> data_{nullptr, nullptr};
};

// Bytes now held by Memory objects of this process, and the most ever held: reports and tests read them.
int64_t memory_in_use();
int64_t memory_peak();

// A tensor that is needed from time `first` to time `last` (both included) of a pass.
struct Lifetime {
  int64_t floats = 0;
  int first = 0, last = 0;
};
// Offsets (in floats) such that no two tensors alive at the same time overlap; `total` is what they need together.
struct Placement {
  std::vector<int64_t> offsets;
  int64_t total = 0;
};
// Places the largest tensor first, each at the lowest offset that is free while it is needed.
Placement place(const std::vector<Lifetime>&);

}  // namespace pipecast
