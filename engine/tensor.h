#pragma once
// A tensor is a pointer, a shape and the type of its elements: dense, NHWC (channels last). Features are (n, 1, 1, c). A sequence is an
// image of width 1: (n, time, 1, c).
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

// The size of a pass: its number of samples, and their common length where inputs are sequences (padded); else length 1.
struct PassShape {
  int64_t samples, length;
  PassShape(int64_t n = 1, int64_t l = 1) : samples(n), length(l) {}
  auto operator<=>(const PassShape&) const = default;
};
inline std::string to_string(const PassShape& s) {
  return std::to_string(s.samples) + (s.length > 1 ? " x " + std::to_string(s.length) : "");
}

// The shape and type of a value of a model.
struct TensorSpec {
  Shape shape;
  Storage storage = Storage::fp32;
  bool differentiable = true;  // a gradient may flow to it: an activation, which a run may store in bf16. All others keep their type

  TensorSpec(Shape s = {}, Storage t = Storage::fp32, bool d = true) : shape(s), storage(t), differentiable(d && t != Storage::int32) {}
  bool operator==(const TensorSpec&) const = default;
};

// The spec of the value in a run whose activations are stored as `activations`.
inline TensorSpec stored(TensorSpec spec, Storage activations) {
  if (spec.differentiable) spec.storage = activations;
  return spec;
}

// An input of a model, or a column of a data set; they find each other by name.
struct InputSpec {
  std::string name;       // "image", "label", "tokens", "length", "target"
  TensorSpec sample;      // n = 1
  bool sequence = false;  // its height is the length of the pass

  TensorSpec of(const PassShape& pass) const {
    TensorSpec spec = sample;
    spec.shape.n = pass.samples;
    if (sequence) spec.shape.h = pass.length;
    return spec;
  }
};

struct Tensor {
  void* data = nullptr;
  Shape shape;
  Storage storage = Storage::fp32;

  size_t bytes() const { return size_t(bytes_of(storage, shape.count())); }
  int64_t floats() const { return floats_of(storage, shape.count()); }  // of memory
  template <class T>
  T* as() const {
    if (storage_of<T> != storage)
      throw Error("a tensor of " + to_string(shape) + " is " + to_string(storage) + " and is read as " + to_string(storage_of<T>));
    return static_cast<T*>(data);
  }
};

// What a tensor that was not written is made of: max(0, (x - mean) * scale + shift) of another tensor x. A value per channel each.
struct Normalised {
  const float *mean = nullptr, *scale = nullptr, *shift = nullptr;
};

}  // namespace pipecast
