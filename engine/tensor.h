#pragma once
// A tensor is a pointer and a shape: dense fp32, NHWC (channels last). Features are (n, 1, 1, c).
#include <cstdint>
#include <string>

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
  float* data = nullptr;
  Shape shape;
};

// What a tensor that nobody wrote is made of: max(0, (x - mean) * scale + shift) of another tensor x. A value per channel each.
struct Normalised {
  const float *mean = nullptr, *scale = nullptr, *shift = nullptr;
};

}  // namespace pipecast
