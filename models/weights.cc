#include "models/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

constexpr int64_t most_steps = int64_t(1) << 24;  // a counter is a float in memory, and exact up to here

int64_t steps_of(const FileTensor& tensor) {
  int32_t narrow = 0;
  int64_t steps = 0;
  if (tensor.type == "I64") std::memcpy(&steps, tensor.bytes.data(), sizeof steps);
  else std::memcpy(&narrow, tensor.bytes.data(), sizeof narrow), steps = narrow;
  return steps;
}

void from_file(const ParameterSpec& spec, const FileTensor& tensor, float* values) {
  if (spec.counter) {
    *values = float(steps_of(tensor));
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
    const std::vector<std::string> types = spec.counter ? std::vector<std::string>{"I64", "I32"} : std::vector<std::string>{"F32", "F64", "F16", "BF16"};
    const std::vector<int64_t> shape = file_shape(spec);
    if (std::ranges::find(types, tensor.type) == types.end())
      mismatches.of_kind["of another type"].push_back(spec.name + " (" + tensor.type + ", not " + types.front() + ")");
    else if (tensor.shape != shape && !(spec.counter && tensor.shape == std::vector<int64_t>{1}))
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

// f(spec, values) for every tensor of the model.
template <class F>
void each_tensor(const Weights& weights, F f) {
  for (size_t i = 0; i < weights.parameters.specs.size(); ++i)
    f(weights.parameters.specs[i], weights.parameter_values.data() + weights.parameters.offsets[i]);
  for (size_t i = 0; i < weights.statistics.specs.size(); ++i)
    f(weights.statistics.specs[i], weights.statistic_values.data() + weights.statistics.offsets[i]);
}

// Values that no training leaves behind: not finite, a negative variance, a counter that does not fit.
void find_bad_values(const SafeTensors& file, const Weights& weights, Mismatches& bad) {
  each_tensor(weights, [&](const ParameterSpec& spec, const float* values) {
    const auto found = file.tensors.find(spec.name);
    if (spec.counter) {
      const int64_t steps = found == file.tensors.end() ? 0 : steps_of(found->second);
      if (steps < 0 || steps > most_steps)
        bad.of_kind["with a count outside 0 to " + std::to_string(most_steps)].push_back(spec.name + " (" + std::to_string(steps) + ")");
      return;
    }
    const auto count = [&](auto is_bad) { return std::to_string(std::count_if(values, values + spec.count(), is_bad)); };
    const std::string not_finite = count([](float value) { return !std::isfinite(value); });
    if (not_finite != "0") bad.of_kind["with values that are not finite"].push_back(spec.name + " (" + not_finite + ")");
    if (!spec.name.ends_with("running_var")) return;
    const std::string negative = count([](float value) { return value < 0; });
    if (negative != "0") bad.of_kind["with negative variances"].push_back(spec.name + " (" + negative + ")");
  });
}

// What wrappers of other tools put before every name: DataParallel and torch.compile of PyTorch.
SafeTensors without_wrapper(SafeTensors file) {
  for (const std::string prefix : {"module.", "_orig_mod.", "module."}) {
    const auto has_prefix = [&](const auto& item) { return item.first.starts_with(prefix); };
    if (file.tensors.empty() || !std::ranges::all_of(file.tensors, has_prefix)) continue;
    std::map<std::string, FileTensor> tensors;
    for (auto& [name, tensor] : file.tensors) tensors[name.substr(prefix.size())] = std::move(tensor);
    file.tensors = std::move(tensors);
  }
  return file;
}

std::vector<float> initial_values(const Segments& segments, uint64_t seed) {
  std::vector<float> values(size_t(segments.total));
  initialize(segments, seed, values.data());
  return values;
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

Weights from_safetensors(const Graph& graph, const SafeTensors& wrapped, const std::string& origin) {
  const SafeTensors file = without_wrapper(wrapped);
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
  find_bad_values(file, weights, mismatches);
  if (!mismatches.of_kind.empty())
    throw UsageError("weights '" + origin + "' cannot be used (tensors " + mismatches.text() + "): take them from an earlier checkpoint");
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
