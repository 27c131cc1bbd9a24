#include "models/weights.h"

#include <algorithm>
#include <map>
#include <set>

#include "engine/error.h"
#include "engine/files/sha256.h"

namespace pipecast {
namespace {

// In files a four-dimensional tensor is [O,I,H,W]; in memory [O,H,W,I].
std::vector<int64_t> file_shape(const ParameterSpec& spec) {
  if (spec.counter) return {};
  if (spec.shape.size() != 4) return spec.shape;
  return {spec.shape[0], spec.shape[3], spec.shape[1], spec.shape[2]};
}

// Calls f(place in memory, place in the file) for every element.
template <class F>
void each_element(const ParameterSpec& spec, F f) {
  if (spec.shape.size() != 4) {
    for (int64_t i = 0; i < spec.count(); ++i) f(i, i);
    return;
  }
  const int64_t pixels = spec.shape[1] * spec.shape[2], inputs = spec.shape[3];
  int64_t in_memory = 0;
  for (int64_t o = 0; o < spec.shape[0]; ++o)
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t i = 0; i < inputs; ++i) f(in_memory++, (o * inputs + i) * pixels + p);
}

FileTensor to_file(const ParameterSpec& spec, const float* values) {
  if (spec.counter) {
    const int64_t steps = int64_t(*values);
    return FileTensor::i64({}, &steps);
  }
  std::vector<float> permuted(size_t(spec.count()));
  each_element(spec, [&](int64_t in_memory, int64_t in_file) { permuted[size_t(in_file)] = values[in_memory]; });
  return FileTensor::f32(file_shape(spec), permuted.data());
}

void from_file(const ParameterSpec& spec, const FileTensor& tensor, float* values) {
  if (spec.counter) {
    int64_t steps;
    std::copy_n(tensor.bytes.data(), sizeof steps, reinterpret_cast<uint8_t*>(&steps));
    *values = float(steps);
    return;
  }
  const std::vector<float> read = tensor.floats();
  each_element(spec, [&](int64_t in_memory, int64_t in_file) { values[in_memory] = read[size_t(in_file)]; });
}

std::string to_string(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? "," : "") + std::to_string(shape[i]);
  return text + "]";
}

// What does not fit, by kind, for one message.
struct Mismatches {
  std::map<std::string, std::vector<std::string>> of_kind;

  std::string text() const {
    std::string text;
    for (const auto& [kind, tensors] : of_kind) {
      text += (text.empty() ? "" : "; ") + std::to_string(tensors.size()) + " " + kind + ": ";
      const size_t shown = std::min<size_t>(tensors.size(), 3);
      for (size_t i = 0; i < shown; ++i) text += (i ? ", " : "") + tensors[i];
      if (tensors.size() > shown) text += ", ...";
    }
    return text;
  }
};

void find_mismatches(const SafeTensors& file, const Segments& segments, Mismatches& mismatches) {
  for (const ParameterSpec& spec : segments.specs) {
    const auto found = file.tensors.find(spec.name);
    if (found == file.tensors.end()) {
      // torchvision's oldest files have no counters; they begin at 0.
      if (!spec.counter) mismatches.of_kind["missing"].push_back(spec.name);
      continue;
    }
    const FileTensor& tensor = found->second;
    const std::string type = spec.counter ? "I64" : "F32";
    const std::vector<int64_t> shape = file_shape(spec);
    if (tensor.type != type) mismatches.of_kind["of another type"].push_back(spec.name + " (" + tensor.type + ", not " + type + ")");
    else if (tensor.shape != shape)
      mismatches.of_kind["of another shape"].push_back(spec.name + " (" + shown(to_string(tensor.shape)) + ", not " + to_string(shape) +
                                                       ")");
  }
}

// Of a file without mismatches.
std::vector<float> read_tensors(const SafeTensors& file, const Segments& segments) {
  std::vector<float> values(size_t(segments.total));
  for (size_t i = 0; i < segments.specs.size(); ++i) {
    const auto found = file.tensors.find(segments.specs[i].name);
    if (found != file.tensors.end()) from_file(segments.specs[i], found->second, values.data() + segments.offsets[i]);
  }
  return values;
}

std::vector<float> initial_values(const Segments& segments, uint64_t seed) {
  std::vector<float> values(size_t(segments.total));
  initialize(segments, seed, values.data());
  return values;
}

// f(spec, values) for every tensor of the model.
template <class F>
void each_tensor(const Weights& weights, F f) {
  for (size_t i = 0; i < weights.parameters.specs.size(); ++i)
    f(weights.parameters.specs[i], weights.parameter_values.data() + weights.parameters.offsets[i]);
  for (size_t i = 0; i < weights.statistics.specs.size(); ++i)
    f(weights.statistics.specs[i], weights.statistic_values.data() + weights.statistics.offsets[i]);
}

}  // namespace

Weights initial_weights(const Graph& graph, uint64_t seed) {
  Weights weights{graph.parameters(), graph.statistics(), {}, {}};
  weights.parameter_values = initial_values(weights.parameters, seed);
  weights.statistic_values = initial_values(weights.statistics, seed);
  return weights;
}

SafeTensors to_safetensors(const Weights& weights) {
  SafeTensors file;
  each_tensor(weights, [&](const ParameterSpec& spec, const float* values) { file.tensors[spec.name] = to_file(spec, values); });
  return file;
}

Weights from_safetensors(const Graph& graph, const SafeTensors& file, const std::string& origin) {
  Weights weights{graph.parameters(), graph.statistics(), {}, {}};
  Mismatches mismatches;
  find_mismatches(file, weights.parameters, mismatches);
  find_mismatches(file, weights.statistics, mismatches);

  std::set<std::string> known;
  for (const Segments* segments : {&weights.parameters, &weights.statistics})
    for (const ParameterSpec& spec : segments->specs) known.insert(spec.name);
  for (const auto& [name, tensor] : file.tensors)
    if (!known.count(name)) mismatches.of_kind["unknown"].push_back(shown(name));

  if (!mismatches.of_kind.empty())
    throw UsageError("weights '" + origin + "' do not fit model '" + graph.name() + "' (tensors " + mismatches.text() +
                     "): give the file's own model and number of classes");
  weights.parameter_values = read_tensors(file, weights.parameters);
  weights.statistic_values = read_tensors(file, weights.statistics);
  return weights;
}

std::string weights_digest(const Weights& weights) {
  std::map<std::string, std::pair<const float*, int64_t>> by_name;
  each_tensor(weights, [&](const ParameterSpec& spec, const float* values) { by_name[spec.name] = {values, spec.count()}; });
  Sha256 digest;
  for (const auto& [name, tensor] : by_name) digest.add(tensor.first, size_t(tensor.second) * sizeof(float));
  return digest.hex();
}

}  // namespace pipecast
