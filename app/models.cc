// The models: parameters, arithmetic and parts.
#include "models/models.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "engine/parameters.h"
#include "layers/layer.h"
#include "pipeline/limits.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

int64_t count(const Segments& segments) {
  int64_t sum = 0;
  for (const ParameterSpec& spec : segments.specs) sum += spec.count();
  return sum;
}

// Floating-point operations of a forward pass of one sample in the nodes [first, last), a multiply-add being two.
double flops(const Graph& graph, const std::vector<TensorSpec>& specs, int first, int last) {
  double sum = 0;
  for (int i = first; i < last; ++i) {
    const Node& node = graph.nodes()[size_t(i)];
    std::vector<TensorSpec> inputs;
    for (int input : node.inputs) inputs.push_back(specs[size_t(input)]);
    sum += node.layer->flops(inputs);
  }
  return sum;
}

class ModelsCommand : public Command {
 public:
  ModelsCommand()
      : Command("models", "List the models: parameters, arithmetic per sample, parts",
                "  pipecast models\n"
                "  pipecast models --model vgg16 --image 64 --classes 200") {}

  void declare(Options& o) override {
    o.text("model", model_, "NAME", "this one only, with its parts; default: all");
    o.number("image", image_, "SIZE", "height and width of the images; 0: those that each model was made for", 0, most_image_side);
    o.number("length", length_, "POSITIONS", "length of the sequences that models of text read", 1, most_length);
    o.number("classes", classes_, "N", "classes; 0: as many as each model was made for", 0, most_classes);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    Json models = Json::array();
    if (!model_.empty()) models.push_back(describe(model_entry(model_)));
    else
      for (const ModelEntry& entry : model_entries()) models.push_back(describe(entry));
    if (json_) std::cout << Json({{"models", models}}).dump(2) << "\n";
    else print(models);
  }

 private:
  Json describe(const ModelEntry& entry) const {
    const int64_t side = image_ ? image_ : entry.image, classes = classes_ ? classes_ : entry.classes;
    const Graph graph = entry.make({.image = {1, side, side, 3}, .classes = classes, .vocabulary = entry.vocabulary});
    const auto& inputs = graph.inputs();
    const bool sees = std::ranges::any_of(inputs, [](const InputSpec& input) { return input.name == "image"; });
    const std::vector<TensorSpec> specs = graph.specs({1, sees ? 1 : length_});
    Json parts = Json::array();
    for (const Part& part : graph.parts())
      parts.push_back({{"name", part.name},
                       {"parameters", count(graph.collect(part.first, part.last, &Layer::parameters))},
                       {"flops", flops(graph, specs, part.first, part.last)}});
    return {{"name", entry.name},
            {"summary", entry.summary},
            {"image", sees ? Json(side) : Json()},
            {"length", sees ? Json() : Json(length_)},
            {"classes", classes},
            {"parameters", count(graph.parameters())},
            {"flops", flops(graph, specs, 0, int(graph.nodes().size()))},
            {"parts", parts}};
  }

  void print(const Json& models) const {
    std::cout << "model                image  classes  parameters  GFLOP/sample  parts\n";
    for (const Json& m : models)
      std::cout << format("%-20s %5s %8lld %9.2f M %13.2f %6zu\n", m["name"].get<std::string>().c_str(),
                          m["image"].is_null() ? "text" : m["image"].dump().c_str(), m["classes"].get<long long>(),
                          m["parameters"].get<double>() / 1e6, m["flops"].get<double>() / 1e9, m["parts"].size());
    std::cout << "GFLOP: of the forward pass of one sample, a text of " << length_ << " positions; a multiply-add is two operations.\n";
    if (model_.empty()) return;
    std::cout << "\n   part                                parameters     GFLOP\n";
    size_t number = 0;
    for (const Json& part : models[0]["parts"])
      std::cout << format("%3zu %-34s %10lld %9.4f\n", number++, part["name"].get<std::string>().c_str(),
                          part["parameters"].get<long long>(), part["flops"].get<double>() / 1e9);
  }

  std::string model_;
  int64_t image_ = 0, length_ = 128, classes_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> models_command() { return std::make_unique<ModelsCommand>(); }

}  // namespace pipecast
