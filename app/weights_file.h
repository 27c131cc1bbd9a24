#pragma once
// Weights files that name their model, so that it need not be said again.
#include <map>
#include <string>

#include "models/models.h"
#include "models/weights.h"

namespace pipecast {

struct NamedWeights {
  std::string model;
  ModelOptions options;
  Weights weights;
};

// What a weights file says of its model, as safetensors metadata.
std::map<std::string, std::string> weights_metadata(const std::string& model, const ModelOptions&);
void write_weights(const std::string& path, const NamedWeights&);
// A file of pipecast or of torchvision's tensors. `model` and `classes`: what the caller knows of it, "" and 0 for nothing; what
// the file says of itself fills the rest. Throws UsageError where both do not agree or do not suffice.
NamedWeights read_weights(const std::string& path, const std::string& model = "", int64_t classes = 0);
NamedWeights name_weights(const SafeTensors&, const std::string& path, const std::string& model, int64_t classes);  // the same over memory

}  // namespace pipecast
