#include "app/weights_file.h"

#include <algorithm>
#include <charconv>

#include "engine/error.h"

namespace pipecast {
namespace {

// Other tools write metadata of their own under the same names: a text that is not a whole number is ignored.
void read_number(const std::string& text, const std::string& path, int64_t most, int64_t& number) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) return;
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [after, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || after != end || value < 1 || value > most)
    throw UsageError("weights '" + path + "' say of themselves '" + shown(text) + "' where a number from 1 to " + std::to_string(most) +
                     " belongs; the file is damaged");
  number = value;
}

bool is_model(const std::string& name) {
  return std::ranges::any_of(model_entries(), [&](const auto& entry) { return entry.name == name; });
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
  if (!model.empty() && own != model && is_model(own)) {
    make_model(model, {});  // a misspelt name is the likelier mistake
    throw UsageError("weights '" + path + "' are of model '" + shown(own) + "', not '" + model + "'");
  }
  if (named.model.empty()) named.model = own;
  read_number(says("classes"), path, 100000, named.options.classes);
  read_number(says("height"), path, 4096, named.options.image.h);
  read_number(says("width"), path, 4096, named.options.image.w);
  read_number(says("channels"), path, 64, named.options.image.c);
  read_number(says("vocabulary"), path, 1 << 30, named.options.vocabulary);
  if (classes > 0) named.options.classes = classes;
  named.weights = from_safetensors(make_model(named.model, named.options), file, path);
  return named;
}

}  // namespace pipecast
