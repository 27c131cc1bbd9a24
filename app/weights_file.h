#pragma once
// Weights files that name their model, so that it need not be said again.
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/models.h"
#include "models/weights.h"

namespace pipecast {

struct NamedWeights {
  std::string model;
  ModelOptions options;
  Weights weights;
  std::string preparation = {};            // of the pictures that they are for, see app/preparation.h; "" where the file does not say
  std::vector<RenewedLayer> renewed = {};  // what begins anew, as the file has it for another number of classes
};

// --allow-bad-values of all commands that read weights.
inline constexpr const char* bad_values_help = "take weights that are not finite, negative variances and counts above 16777216";
inline BadValues bad_values(bool allowed) { return allowed ? BadValues::take : BadValues::refuse; }

// What a weights file says of its model, as safetensors metadata.
std::map<std::string, std::string> weights_metadata(const std::string& model, const ModelOptions&, const std::string& preparation);
void write_weights(const std::string& path, const NamedWeights&);
// A file of pipecast or of torchvision's tensors. `model` and `classes`: what the caller knows of it, "" and 0 for nothing; what
// a file of pipecast says of itself fills the rest. Throws UsageError where both do not agree or do not suffice.
NamedWeights read_weights(const std::string& path, const std::string& model = "", int64_t classes = 0, BadValues = BadValues::refuse);
// The same to train on from: a head for another number of classes begins anew, as a model with this seed does.
NamedWeights read_start(const std::string& path, const std::string& model, int64_t classes, BadValues, uint64_t seed);
// The same over memory; without a seed nothing begins anew.
NamedWeights name_weights(SafeTensors, const std::string& path, const std::string& model, int64_t classes, BadValues,
                          std::optional<uint64_t> seed = {});

}  // namespace pipecast
