#include "app/weights_file.h"

#include <algorithm>
#include <charconv>

#include "engine/error.h"

namespace pipecast {
namespace {

std::string said(const SafeTensors& file, const std::string& key) {
  const auto found = file.metadata.find(key);
  return found == file.metadata.end() ? "" : found->second;
}

bool is_whole(const std::string& text) { return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos; }

// A number of the metadata, and where it belongs.
struct Size {
  const char* key;
  int64_t most;
  int64_t& value;
};

// Other tools write metadata of their own under the same names. A file of pipecast names a model of pipecast, and has whole numbers.
void read_sizes(const SafeTensors& file, const std::string& path, ModelOptions& options) {
  const Size sizes[] = {{"classes", most_classes, options.classes},
                        {"height", most_image_side, options.image.h},
                        {"width", most_image_side, options.image.w},
                        {"channels", most_image_channels, options.image.c},
                        {"vocabulary", most_vocabulary, options.vocabulary}};
  const bool numbers = std::ranges::all_of(sizes, [&](const Size& size) {
    const auto found = file.metadata.find(size.key);
    return found == file.metadata.end() || is_whole(found->second);
  });
  if (!numbers || !is_model(said(file, "model"))) return;
  for (const auto& [key, most, value] : sizes) {
    const std::string text = said(file, key);
    if (text.empty()) continue;
    const auto [after, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || value < 1 || value > most)
      throw UsageError("weights '" + path + "' say of themselves '" + shown(text) + "' where a number from 1 to " + std::to_string(most) +
                       " belongs; the file is damaged");
  }
}

}  // namespace

std::map<std::string, std::string> weights_metadata(const std::string& model, const ModelOptions& options, const std::string& preparation) {
  std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                 {"model", model},
                                                 {"classes", std::to_string(options.classes)},
                                                 {"height", std::to_string(options.image.h)},
                                                 {"width", std::to_string(options.image.w)},
                                                 {"channels", std::to_string(options.image.c)},
                                                 {"vocabulary", std::to_string(options.vocabulary)}};
  if (!preparation.empty()) metadata["preparation"] = preparation;
  return metadata;
}

void write_weights(const std::string& path, const NamedWeights& named) {
  SafeTensors file = to_safetensors(named.weights);
  file.metadata = weights_metadata(named.model, named.options, named.preparation);
  write_safetensors(path, file);
}

NamedWeights read_weights(const std::string& path, const std::string& model, int64_t classes, BadValues bad_values) {
  return name_weights(read_safetensors(path), path, model, classes, bad_values);
}

NamedWeights read_start(const std::string& path, const std::string& model, int64_t classes, BadValues bad_values, uint64_t seed) {
  return name_weights(read_safetensors(path), path, model, classes, bad_values, seed);
}

NamedWeights name_weights(SafeTensors file, const std::string& path, const std::string& model, int64_t classes, BadValues bad_values,
                          std::optional<uint64_t> seed) {
  NamedWeights named{model, {}, {}};
  const std::string own = said(file, "model");
  if (model.empty() && own.empty()) throw UsageError("weights '" + path + "' do not say which model they are of; give --model");
  if (model.empty() && !is_model(own))
    throw UsageError("weights '" + path + "' are of '" + shown(own) + "', which is no model of pipecast; give --model");
  if (!model.empty() && own != model && is_model(own)) {
    make_model(model, {});  // a misspelt name is the likelier mistake
    throw UsageError("weights '" + path + "' are of model '" + shown(own) + "', not '" + model + "'");
  }
  if (model.empty()) named.model = own;
  named.options.vocabulary = model_entry(named.model).vocabulary;
  read_sizes(file, path, named.options);
  if (is_model(own)) named.preparation = said(file, "preparation");
  if (classes > 0) named.options.classes = classes;
  const Graph graph = make_model(named.model, named.options);
  if (seed) named.renewed = renew(file, graph, head_layers(named.model, named.options), *seed);
  named.weights = from_safetensors(graph, file, path, bad_values);
  return named;
}

}  // namespace pipecast
