#pragma once
// A tensor is a pointer, a shape and how its elements are stored: dense, NHWC (channels last). Features are (n, 1, 1, c).
#include <cstdint>
#include <string>

#include "engine/error.h"
#include "engine/storage.h"

namespace pipecast {

struct Shape {
  int64_t n = 1, h = 1, w = 1, c = 1;

  int64_t rows() const { return n * h * w; }
  int64_t count() const { return n * h * w * c; }
  Shape batch(int64_t size) const { return {size, h, w, c}; }
  bool operator==(const Shape&) const = default;
};
inline std::string to_string(const Shape& s) {
  return std::to_string(s.n) + "x" + std::to_string(s.h) + "x" + std::to_string(s.w) + "x" + std::to_string(s.c);
}

struct Tensor {
  void* data = nullptr;
  Shape shape;
  Storage storage = Storage::fp32;

  size_t bytes() const { return size_t(bytes_of(storage, shape.count())); }
  int64_t floats() const { return floats_of(storage, shape.count()); }  // of memory
  template <class T>
  T* as() const {
    if (storage_of<T> != storage) throw Error("a tensor of " + to_string(shape) + " is not stored in the type that it is read in");
    return static_cast<T*>(data);
  }
};

// What a tensor that nobody wrote is made of: max(0, (x - mean) * scale + shift) of another tensor x. A value per channel each.
struct Normalised {
  const float *mean = nullptr, *scale = nullptr, *shift = nullptr;
};

}  // namespace pipecast
