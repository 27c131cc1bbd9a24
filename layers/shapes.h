#pragma once
// One sentence for inputs that do not fit a layer.
#include "layers/layer.h"

namespace pipecast {

[[noreturn]] inline void refuse(const Layer& layer, std::span<const TensorSpec> x, const std::string& wants) {
  std::string given;
  for (const TensorSpec& spec : x)
    given += (given.empty() ? "" : ", ") + to_string(spec.shape) + (spec.storage == Storage::int32 ? " int32" : "");
  throw UsageError(std::string(layer.kind()) + " '" + layer.name() + "' cannot take " + std::to_string(x.size()) +
                   (x.size() == 1 ? " input (" : " inputs (") + given + "): it wants " + wants);
}

// A mistake in a layer's options, found when the layer is made.
inline void require(bool right, const char* kind, const std::string& name, const std::string& wants) {
  if (!right) throw UsageError(std::string(kind) + " '" + name + "': " + wants);
}

}  // namespace pipecast
