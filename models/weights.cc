#include "models/weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
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

void from_file(const ParameterSpec& spec, const FileTensor& tensor, float* values) {
  if (spec.counter) {
    *values = float(std::clamp(tensor.whole_number().value_or(0), int64_t(0), most_steps));
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

using FileTensors = std::map<std::string, const FileTensor*>;  // of a file, by their names in the model

void find_mismatches(const FileTensors& tensors, const Segments& segments, Mismatches& mismatches) {
  for (const ParameterSpec& spec : segments.specs) {
    const auto found = tensors.find(spec.name);
    if (found == tensors.end()) {
      // torchvision's oldest files have no counters; they begin at 0.
      if (!spec.counter) mismatches.of_kind["missing"].push_back(spec.name);
      continue;
    }
    const FileTensor& tensor = *found->second;
    const std::vector<int64_t> shape = file_shape(spec);
    if (!(spec.counter ? tensor.is_number() : tensor.is_float()))
      mismatches.of_kind["of another type"].push_back(spec.name + " (" + tensor.type + ", not " + (spec.counter ? "I64" : "F32") + ")");
    else if (tensor.shape != shape && !(spec.counter && tensor.shape == std::vector<int64_t>{1}))
      mismatches.of_kind["of another shape"].push_back(spec.name + " (" + shown(to_string(tensor.shape)) + ", not " + to_string(shape) +
                                                       ")");
  }
}

// Of a file without mismatches.
std::vector<float> read_tensors(const FileTensors& tensors, const Segments& segments) {
  std::vector<float> values(size_t(segments.total));
  for (size_t i = 0; i < segments.specs.size(); ++i) {
    const auto found = tensors.find(segments.specs[i].name);
    if (found != tensors.end()) from_file(segments.specs[i], *found->second, values.data() + segments.offsets[i]);
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

void find_bad_values(const FileTensors& tensors, const Weights& weights, Mismatches& bad) {
  each_tensor(weights, [&](const ParameterSpec& spec, const float* values) {
    if (spec.counter) {
      const auto found = tensors.find(spec.name);
      if (found == tensors.end()) return;
      const std::optional<int64_t> steps = found->second->whole_number();
      if (!steps || *steps < 0 || *steps > most_steps)
        bad.of_kind["with a count outside 0 to " + std::to_string(most_steps)].push_back(
            spec.name + " (" + (steps ? std::to_string(*steps) : "no whole number of 64 bits") + ")");
      return;
    }
    const auto find = [&](const char* kind, auto is_bad) {
      const int64_t count = std::count_if(values, values + spec.count(), is_bad);
      if (count > 0) bad.of_kind[kind].push_back(spec.name + " (" + std::to_string(count) + ")");
    };
    find("with values that are not finite", [](float value) { return !std::isfinite(value); });
    if (spec.name.ends_with("running_var")) find("with negative variances", [](float value) { return value < 0; });
  });
}

std::set<std::string> names_of(const Weights& weights) {
  std::set<std::string> names;
  for (const Segments* segments : {&weights.parameters, &weights.statistics})
    for (const ParameterSpec& spec : segments->specs) names.insert(spec.name);
  return names;
}

// What all weights' names begin with; cut, as no wrapper's name is longer.
std::string shared_beginning(const SafeTensors& file) {
  std::optional<std::string> shared;
  for (const auto& [name, tensor] : file.tensors) {
    if (!tensor.is_float()) continue;
    if (!shared) shared = name.substr(0, 200);
    shared->erase(std::ranges::mismatch(*shared, name).in1, shared->end());
  }
  return shared.value_or("");
}

// What wrappers (DataParallel, torch.compile, a module that has the model as a member) put before every name: "" or some words with a dot
// behind each, so that the most of the model's names are found. Counters of a wrapper itself may stand beside, so only weights are asked.
std::string wrapper_of(const SafeTensors& file, const std::set<std::string>& names) {
  const std::string shared = shared_beginning(file);
  std::string best;
  int64_t most = -1;
  for (size_t length = 0;;) {
    const std::string prefix = shared.substr(0, length);
    const int64_t found = std::ranges::count_if(names, [&](const std::string& name) { return file.tensors.count(prefix + name) > 0; });
    if (found > most) best = prefix, most = found;
    const size_t dot = shared.find('.', length);
    if (dot == std::string::npos) return best;
    length = dot + 1;
  }
}

bool is_left_out(const Graph& graph, const std::string& name) {
  return std::ranges::any_of(graph.files().left_out, [&](const std::string& beginning) { return name.starts_with(beginning); });
}

// The file's tensors by their names in the model.
FileTensors named_as_model(const Graph& graph, const SafeTensors& file, const std::set<std::string>& names) {
  const Graph::Files& files = graph.files();
  const std::string prefix = wrapper_of(file, names);
  FileTensors tensors;
  for (const auto& [name, tensor] : file.tensors) {
    if (!name.starts_with(prefix)) continue;
    const std::string own = name.substr(prefix.size()), in_body = files.body + own;
    const bool is_of_body = !names.count(own) && (names.count(in_body) || is_left_out(graph, in_body));
    tensors[is_of_body ? in_body : own] = &tensor;
  }
  if (const auto found = tensors.find(files.stands_in); found != tensors.end() && names.count(files.missing))
    tensors.emplace(files.missing, found->second);
  return tensors;
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

namespace {

// Where the file has nothing of the model's head, it gets a new one.
void add_head(SafeTensors& file, const Graph& graph, const Weights& weights, const std::string& prefix,
              std::vector<RenewedLayer>& renewed) {
  const std::string& head = graph.files().head;
  if (head.empty() || std::ranges::any_of(file.tensors, [&](const auto& entry) { return entry.first.starts_with(prefix + head); })) return;
  each_tensor(weights, [&](const ParameterSpec& spec, const float* values) {
    if (!spec.name.starts_with(head)) return;
    const std::string layer = spec.name.substr(0, spec.name.rfind('.'));
    file.tensors[prefix + spec.name] = to_file(spec, values);
    if (renewed.empty() || renewed.back().name != layer) renewed.push_back({layer, 0, spec.shape[0]});
  });
}

}  // namespace

std::vector<RenewedLayer> renew(SafeTensors& file, const Graph& graph, const std::vector<std::string>& layers, uint64_t seed) {
  const Weights weights = initial_weights(graph, seed);
  const std::string prefix = wrapper_of(file, names_of(weights));
  std::vector<RenewedLayer> renewed;
  for (const std::string& layer : layers) {
    const auto each_of_layer = [&](auto f) {
      each_tensor(weights, [&](const ParameterSpec& spec, const float* values) {
        if (spec.name.substr(0, spec.name.rfind('.')) == layer) f(prefix + spec.name, spec, values);
      });
    };
    RenewedLayer differs;
    each_of_layer([&](const std::string& name, const ParameterSpec& spec, const float*) {
      const auto found = file.tensors.find(name);
      if (found == file.tensors.end() || found->second.shape.empty() || found->second.shape[0] == spec.shape[0]) return;
      differs = {layer, found->second.shape[0], spec.shape[0]};
    });
    if (differs.name.empty()) continue;
    each_of_layer(
        [&](const std::string& name, const ParameterSpec& spec, const float* values) { file.tensors[name] = to_file(spec, values); });
    renewed.push_back(differs);
  }
  add_head(file, graph, weights, prefix, renewed);
  return renewed;
}

Weights from_safetensors(const Graph& graph, const SafeTensors& file, const std::string& origin, BadValues bad_values) {
  Weights weights{graph.parameters(), graph.statistics(), {}, {}};
  const std::set<std::string> names = names_of(weights);
  const FileTensors tensors = named_as_model(graph, file, names);
  Mismatches mismatches;
  find_mismatches(tensors, weights.parameters, mismatches);
  find_mismatches(tensors, weights.statistics, mismatches);
  for (const auto& [name, tensor] : tensors)
    if (tensor->is_float() && !names.count(name) && !is_left_out(graph, name)) mismatches.of_kind["unknown"].push_back(shown(name));
  if (!mismatches.of_kind.empty()) {
    const bool types_only = mismatches.of_kind.size() == 1 && mismatches.of_kind.count("of another type");
    throw UsageError("weights '" + origin + "' do not fit model '" + graph.name() + "' (tensors " + mismatches.text() + "): " +
                     (types_only ? "save these tensors in the types that are asked for" : "give the file's own model and number of classes"));
  }

  weights.parameter_values = read_tensors(tensors, weights.parameters);
  weights.statistic_values = read_tensors(tensors, weights.statistics);
  if (bad_values == BadValues::take) return weights;
  find_bad_values(tensors, weights, mismatches);
  if (!mismatches.of_kind.empty())
    throw UsageError("weights '" + origin + "' have values that no training leaves behind (tensors " + mismatches.text() +
                     "): take another file, or give --allow-bad-values to use this one all the same");
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
