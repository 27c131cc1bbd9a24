#include "app/weights_file.h"

#include <charconv>

#include "engine/error.h"

namespace pipecast {
namespace {

int64_t number(const std::string& text, const std::string& path, int64_t most) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [after, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || after != end || value < 1 || value > most)
    throw UsageError("weights '" + path + "' say of themselves '" + shown(text) + "' where a number from 1 to " + std::to_string(most) +
                     " belongs; the file is damaged");
  return value;
}

}  // namespace

std::map<std::string, std::string> weights_metadata(const std::string& model, const ModelOptions& options) {
  return {{"format", "pt"},
          {"model", model},
          {"classes", std::to_string(options.classes)},
          {"height", std::to_string(options.image.h)},
          {"width", std::to_string(options.image.w)},
          {"channels", std::to_string(options.image.c)},
          {"vocabulary", std::to_string(options.vocabulary)}};
}

void write_weights(const std::string& path, const NamedWeights& named) {
  SafeTensors file = to_safetensors(named.weights);
  file.metadata = weights_metadata(named.model, named.options);
  write_safetensors(path, file);
}

NamedWeights read_weights(const std::string& path, const std::string& model, int64_t classes) {
  return name_weights(read_safetensors(path), path, model, classes);
}

NamedWeights name_weights(const SafeTensors& file, const std::string& path, const std::string& model, int64_t classes) {
  NamedWeights named{model, {}, {}};
  auto says = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  const std::string own = says("model");
  if (model.empty() && own.empty()) throw UsageError("weights '" + path + "' do not say which model they are of; give --model");
  if (!model.empty() && !own.empty() && own != model) {
    make_model(model, {});  // a misspelt name is the likelier mistake
    throw UsageError("weights '" + path + "' are of model '" + shown(own) + "', not '" + model + "'");
  }
  if (named.model.empty()) named.model = own;
  if (!says("classes").empty()) named.options.classes = number(says("classes"), path, most_classes);
  if (!says("height").empty()) named.options.image.h = number(says("height"), path, most_image_side);
  if (!says("width").empty()) named.options.image.w = number(says("width"), path, most_image_side);
  if (!says("channels").empty()) named.options.image.c = number(says("channels"), path, most_image_channels);
  if (!says("vocabulary").empty()) named.options.vocabulary = number(says("vocabulary"), path, most_vocabulary);
  if (classes > 0) named.options.classes = classes;
  named.weights = from_safetensors(make_model(named.model, named.options), file, path);
  return named;
}

}  // namespace pipecast
