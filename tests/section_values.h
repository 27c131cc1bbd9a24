#pragma once
// The values at a section's borders by number: what it takes (inputs of the model first), and what it hands on.
#include "pipeline/run/section.h"

namespace pipecast::testing {

inline std::vector<int> taken(const Section& section) {
  std::vector<int> values = section.fed();
  values.insert(values.end(), section.inputs().begin(), section.inputs().end());
  return values;
}
inline Tensor input_of(const Section& s, int frame, size_t i, int64_t batch) { return s.value(frame, taken(s)[i], batch); }
inline Tensor output_of(const Section& s, int frame, size_t i, int64_t batch) { return s.value(frame, s.outputs()[i], batch); }
inline Tensor output_gradient_of(const Section& s, int frame, size_t i, int64_t batch) { return s.gradient(frame, s.outputs()[i], batch); }
inline Tensor input_gradient_of(const Section& s, size_t i, int64_t batch) { return s.gradient(0, taken(s)[i], batch); }

}  // namespace pipecast::testing
