#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "engine/files/sha256.h"
#include "engine/random.h"
#include "layers/layers.h"
#include "model_pass.h"
#include "models/models.h"
#include "models/weights.h"

using namespace pipecast;
using pipecast::testing::ModelPass;
using pipecast::testing::run_model;

namespace {

const std::string golden = std::string(GOLDEN_DIR) + "/";

template <class E, class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "(no error)";
}

bool contains(const std::string& text, const std::string& piece) { return text.find(piece) != std::string::npos; }

std::string read_text(const std::string& path) {
  std::ifstream in(path);
  REQUIRE(in.good());
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

int64_t elements(const Segments& segments) {
  int64_t sum = 0;
  for (const ParameterSpec& spec : segments.specs) sum += spec.count();
  return sum;
}

// The form of tests/golden/models_*.txt, from the shapes that the files of weights have.
std::string tensor_list(const Graph& graph) {
  std::vector<std::string> lines;
  for (const Segments& segments : {graph.parameters(), graph.statistics()})
    for (const ParameterSpec& spec : segments.specs) {
      std::vector<int64_t> shape = spec.shape;
      if (shape.size() == 4) shape = {shape[0], shape[3], shape[1], shape[2]};
      std::string line = spec.name + (spec.counter ? " I64 [" : " F32 [");
      for (size_t i = 0; i < shape.size(); ++i) line += (i ? "," : "") + std::to_string(shape[i]);
      lines.push_back(line + "]\n");
    }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

// The numbers of tests/golden/make_models.py: in [-1, 1), a hash of the name (given as purpose(name)) and of the place within the tensor.
float formula(uint32_t name, int64_t index, double scale, double centre = 0) {
  uint32_t x = name + uint32_t(index) * 0x9E3779B9u;
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  x ^= x >> 16;
  return float(centre + scale * (double(x >> 8) * 0x1p-23 - 1));
}
float formula(const std::string& name, int64_t index, double scale, double centre = 0) {
  return formula(purpose(name), index, scale, centre);
}

// gain: of convolutions.
SafeTensors formula_weights(const Graph& graph, double gain = 1) {
  SafeTensors file = to_safetensors(initial_weights(graph, 0));
  for (auto& [name, tensor] : file.tensors) {
    if (tensor.type == "I64") {
      const int64_t steps = 7;
      tensor = FileTensor::i64({}, &steps);
      continue;
    }
    const int64_t count = tensor.count();
    const bool positive = name.ends_with("weight") || name.ends_with("running_var");
    const bool matrix = tensor.shape.size() > 1;
    const double scale = matrix ? std::sqrt(3.0 / double(count / tensor.shape[0])) : positive ? 0.5 : 0.25;
    const float times = tensor.shape.size() == 4 ? float(gain) : 1;
    const uint32_t hash = purpose(name);
    std::vector<float> values;
    values.reserve(size_t(count));
    for (int64_t i = 0; i < count; ++i) values.push_back(times * formula(hash, i, scale, positive && !matrix ? 1 : 0));
    tensor = FileTensor::f32(tensor.shape, values.data());
  }
  return file;
}

Shape prediction_shape(const Graph& graph, int64_t batch) { return graph.specs(batch)[size_t(graph.prediction())].shape; }

// Images of the formula, made as [n,c,h,w], stored NHWC.
std::vector<float> formula_images(const Shape& s) {
  std::vector<float> images(size_t(s.count()));
  int64_t index = 0;
  const uint32_t name = purpose("images");
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t c = 0; c < s.c; ++c)
      for (int64_t p = 0; p < s.h * s.w; ++p) images[size_t((n * s.h * s.w + p) * s.c + c)] = formula(name, index++, 1);
  return images;
}

// Of several images and ten classes.
void check_logits(const std::vector<float>& ours, const std::vector<float>& theirs) {
  REQUIRE(ours.size() == theirs.size());
  float largest = 0, error = 0, between_images = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    REQUIRE(std::isfinite(ours[i]));
    largest = std::max(largest, std::abs(theirs[i]));
    error = std::max(error, std::abs(ours[i] - theirs[i]));
    if (i < 10) between_images = std::max(between_images, std::abs(theirs[i] - theirs[i + 10]));
  }
  CHECK(between_images > 100 * 1e-4f * largest);  // else the comparison would not see what the network does with its input
  CHECK(error <= 1e-4f * largest);
}

// Every gradient by its norm and its product with a vector of the formula's numbers, which an error that is not at right angles to it
// changes. worst: the relative error of any; half of them are within 1e-4.
void check_gradients(const Graph& graph, const Weights& made, const std::vector<float>& rows, double worst) {
  const SafeTensors gradients = to_safetensors(made);
  std::set<std::string> parameters;
  for (const ParameterSpec& spec : graph.parameters().specs) parameters.insert(spec.name);
  REQUIRE(rows.size() == 2 * parameters.size());
  // A bias before a batch norm has a gradient of zero, and what is computed for it is rounding.
  float largest = 0;
  for (size_t row = 0; row < rows.size(); row += 2) largest = std::max(largest, rows[row]);
  const uint32_t probe = purpose("probe");
  size_t row = 0, close = 0;
  for (const std::string& parameter : parameters) {
    CAPTURE(parameter);
    const std::vector<float> gradient = gradients.tensors.at(parameter).floats();
    double squares = 0, product = 0;
    for (size_t i = 0; i < gradient.size(); ++i) {
      squares += double(gradient[i]) * double(gradient[i]);
      product += double(gradient[i]) * double(formula(probe, int64_t(i), 1));
    }
    const double norm = double(rows[row]), unit = norm + 1e-3 * double(largest);
    const double error = std::max(std::abs(std::sqrt(squares) - norm), std::abs(product - double(rows[row + 1]))) / unit;
    CHECK(error <= worst);  // false for NaN
    close += error <= 1e-4;
    row += 2;
  }
  CHECK(close >= parameters.size() / 2);
}

Graph tiny() {
  Graph graph("tiny", {1, 4, 4, 3});
  graph.part("stem");
  int x = graph.add(convolution("conv", {.in = 3, .out = 5, .kernel = 3, .padding = 1}), {0});
  x = graph.add(batch_norm("a", {.channels = 5}), {x});
  graph.part("head");
  x = graph.add(global_average_pool("pool"), {x});
  graph.add(linear("fc", 5, 2), {x});
  return graph;
}

// Weights without any two equal values, and with the gaps between segments poisoned.
Weights distinct_weights(const Graph& graph) {
  Weights weights = initial_weights(graph, 3);
  for (auto [segments, values] :
       {std::pair{&weights.parameters, &weights.parameter_values}, {&weights.statistics, &weights.statistic_values}}) {
    std::fill(values->begin(), values->end(), std::numeric_limits<float>::quiet_NaN());
    for (size_t i = 0; i < segments->specs.size(); ++i) {
      const ParameterSpec& spec = segments->specs[i];
      for (int64_t j = 0; j < spec.count(); ++j)
        (*values)[size_t(segments->offsets[i] + j)] = spec.counter ? float(1000 + i) : formula(spec.name, j, 1);
      if (!spec.name.ends_with("running_var")) continue;
      for (int64_t j = 0; j < spec.count(); ++j) (*values)[size_t(segments->offsets[i] + j)] = std::abs((*values)[size_t(segments->offsets[i] + j)]);
    }
  }
  return weights;
}

template <class F>
void each_real_element(Weights& weights, F f) {
  for (auto [segments, values] :
       {std::pair{&weights.parameters, &weights.parameter_values}, {&weights.statistics, &weights.statistic_values}})
    for (size_t i = 0; i < segments->specs.size(); ++i)
      for (int64_t j = 0; j < segments->specs[i].count(); ++j) f(segments->specs[i], j, (*values)[size_t(segments->offsets[i] + j)]);
}

void check_equal_bits(Weights a, Weights b) {
  std::vector<float> left, right;
  each_real_element(a, [&](const ParameterSpec&, int64_t, float& x) { left.push_back(x); });
  each_real_element(b, [&](const ParameterSpec&, int64_t, float& x) { right.push_back(x); });
  REQUIRE(left.size() == right.size());
  CHECK(std::memcmp(left.data(), right.data(), left.size() * sizeof(float)) == 0);
}

}  // namespace

TEST_CASE("graph: nodes, values, parts, shapes, names") {
  const Graph graph = tiny();
  CHECK(graph.name() == "tiny");
  CHECK(graph.nodes().size() == 4);
  REQUIRE(graph.parts().size() == 2);
  CHECK(graph.parts()[0].name == "stem");
  CHECK(graph.parts()[0].first == 0);
  CHECK(graph.parts()[0].last == 2);
  CHECK(graph.parts()[1].first == 2);
  CHECK(graph.parts()[1].last == 4);
  std::vector<Shape> shapes;
  for (const TensorSpec& spec : graph.specs(7)) shapes.push_back(spec.shape);
  CHECK(shapes == std::vector<Shape>{{7, 4, 4, 3}, {7, 4, 4, 5}, {7, 4, 4, 5}, {7, 1, 1, 5}, {7, 1, 1, 2}});

  const Segments parameters = graph.parameters(), statistics = graph.statistics();
  REQUIRE(parameters.specs.size() == 5);
  CHECK(parameters.specs[0].name == "conv.weight");
  CHECK(parameters.specs[0].shape == std::vector<int64_t>{5, 3, 3, 3});
  CHECK(parameters.specs[4].name == "fc.bias");
  REQUIRE(statistics.specs.size() == 3);
  CHECK(statistics.specs[2].name == "a.num_batches_tracked");
  CHECK(statistics.specs[2].counter);
  const Segments second = graph.collect(2, 4, &Layer::parameters);
  REQUIRE(second.specs.size() == 2);
  CHECK(second.specs[0].name == "fc.weight");
  CHECK(second.offsets[0] == 0);

  Graph nameless("nameless", {1, 1, 1, 3});
  nameless.part("all");
  nameless.add(linear("", 3, 2), {0});
  CHECK(nameless.parameters().specs[0].name == "weight");
}

TEST_CASE("graph: mistakes in building it") {
  Graph graph("wrong", {1, 4, 4, 3});
  CHECK(contains(refusal<Error>([&] { graph.add(relu("early"), {0}); }), "'early' belongs to no part"));
  graph.part("stem");
  CHECK(contains(refusal<Error>([&] { graph.part("next"); }), "part 'stem' is empty"));
  CHECK(contains(refusal<Error>([&] { graph.add(relu("a"), {1}); }), "reads value 1"));
  CHECK(contains(refusal<Error>([&] { graph.add(relu("a"), {-1}); }), "reads value -1"));
  CHECK(contains(refusal<Error>([&] { graph.add(relu("a"), {}); }), "no inputs"));
  CHECK(graph.nodes().empty());
  CHECK(graph.add(relu("a"), {0}) == 1);
  CHECK(contains(refusal<Error>([&] { graph.add(relu("a"), {1}); }), "name of an earlier layer"));
  CHECK(graph.add(linear("fc", 7, 2), {1}) == 2);
  CHECK(contains(refusal<UsageError>([&] { graph.specs(1); }), "fc"));
}

TEST_CASE("names and shapes are torchvision's") {
  std::istringstream list(read_text(golden + "models.txt"));
  std::string name, digest;
  size_t tensors;
  int64_t trained;
  int models = 0;
  for (; list >> name >> tensors >> trained >> digest; ++models) {
    CAPTURE(name);
    const Graph graph = make_model(name, {{1, 224, 224, 3}, 1000});
    CHECK(graph.parameters().specs.size() + graph.statistics().specs.size() == tensors);
    CHECK(elements(graph.parameters()) == trained);
    const std::string ours = tensor_list(graph);
    if (name == "resnet18" || name == "resnet50") CHECK(ours == read_text(golden + "models_" + name + ".txt"));
    Sha256 sha;
    sha.add(ours.data(), ours.size());
    CHECK(sha.hex() == digest);
  }
  CHECK(models == 12);
}

TEST_CASE("networks for CIFAR: parameters and parts") {
  for (auto [name, parameters, parts] : {std::tuple<std::string, int64_t, size_t>{"resnet9", 6573130, 7},
                                         {"resnet20", 272474, 11},
                                         {"resnet32", 466906, 17},
                                         {"resnet44", 661338, 23},
                                         {"resnet56", 855770, 29},
                                         {"resnet110", 1730714, 56},
                                         {"vgg16_cifar", 14728266, 19},
                                         {"googlenet_cifar", 6166250, 13},
                                         {"densenet121_cifar", 6956298, 63}}) {
    CAPTURE(name);
    const Graph graph = make_model(name, {});
    CHECK(elements(graph.parameters()) == parameters);
    CHECK(graph.parts().size() == parts);
  }
  const Graph graph = make_model("resnet20", {});
  std::string parts;
  for (const Part& part : graph.parts()) parts += part.name + " ";
  CHECK(parts == "stem layer1.0 layer1.1 layer1.2 layer2.0 layer2.1 layer2.2 layer3.0 layer3.1 layer3.2 head ");
  CHECK(prediction_shape(graph, 5) == Shape{5, 1, 1, 10});
  CHECK(make_model("resnet9", {}).parts().size() == 7);
  CHECK(make_model("resnet18", {}).parts().size() == 10);
  CHECK(make_model("resnet50", {}).parts().size() == 18);
  CHECK(refusal<UsageError>([] { cifar_resnet(21, {}); }) != "(no error)");
  CHECK(refusal<UsageError>([] { imagenet_resnet(20, {}); }) != "(no error)");
}

// Huang et al. (2018), table 1, and torchgpipe's benchmark: 82 M or 81.5 M, 318 M or 319.0 M, 542 M or 542.7 M, 1.05 B or 1.06 B, 1.8 B or
// 1.84 B. The last digits are those of tests/golden/amoebanet_d.py. Nothing is allocated for the weights.
TEST_CASE("AmoebaNet-D has the published numbers of parameters, and torchgpipe's parts") {
  const auto parts = [](const Graph& graph) { return graph.parts().size(); };
  for (auto [name, parameters] : {std::pair<std::string, int64_t>{"amoebanet_d_18x208", 81505540},
                                  {"amoebanet_d_18x256", 122470120},
                                  {"amoebanet_d_18x416", 319024120},
                                  {"amoebanet_d_18x544", 542734840},
                                  {"amoebanet_d_36x544", 1055832376},
                                  {"amoebanet_d_72x512", 1844858344}}) {
    CAPTURE(name);
    CHECK(elements(make_model(name, {{1, 224, 224, 3}, 1000}).parameters()) == parameters);
  }
  CHECK(parts(make_model("amoebanet_d_18x256", {})) == 24);
  const Graph small = make_model("amoebanet_d_3x16", {});
  std::string names;
  for (const Part& part : small.parts()) names += part.name + " ";
  CHECK(names == "stem1 stem2 stem3 cell1_normal1 cell2_reduction cell3_normal1 cell4_reduction cell5_normal1 classify ");
  CHECK(prediction_shape(make_model("amoebanet_d_3x16", {{1, 1, 1, 3}, 7}), 2) == Shape{2, 1, 1, 7});

  CHECK(is_model("amoebanet_d_3x16"));
  for (const char* wrong : {"amoebanet_d_", "amoebanet_d_18", "amoebanet_d_018x256", "amoebanet_d_18x256 ", "amoebanet_d_18x256x1"}) {
    CHECK(!is_model(wrong));
    CHECK(contains(refusal<UsageError>([&] { make_model(wrong, {}); }), "unknown model"));
  }
  for (const char* wrong : {"amoebanet_d_4x16", "amoebanet_d_3x20", "amoebanet_d_0x16", "amoebanet_d_3x-8"})
    CHECK(contains(refusal<UsageError>([&] { make_model(wrong, {}); }), "layers that 3 divides"));
}

TEST_CASE("parts cut by layer: each has one layer with arithmetic, and the nodes are the same") {
  Graph graph = make_model("resnet20", {});
  const Segments parameters = graph.parameters();
  graph.cut_parts_by_layer();
  // 19 convolutions of three by three, two projections, the classifier with the pooling before it.
  REQUIRE(graph.parts().size() == 22);
  std::string names;
  for (size_t p = 0; p < 4; ++p) names += graph.parts()[p].name + " ";
  CHECK(names == "conv1 layer1.0.conv1 layer1.0.conv2 layer1.1.conv1 ");
  CHECK(graph.parts().back().name == "avgpool");
  int next = 0;
  for (const Part& part : graph.parts()) {
    CHECK(part.first == next);
    CHECK(part.last > part.first);
    int work = 0;
    for (int i = part.first; i < part.last; ++i) {
      const std::string kind = graph.nodes()[size_t(i)].layer->kind();
      work += kind == "convolution" || kind == "linear";
    }
    CHECK(work <= 1);
    next = part.last;
  }
  CHECK(next == int(graph.nodes().size()));
  CHECK(graph.parameters().specs.size() == parameters.specs.size());
}

TEST_CASE(
    "every model: parts cover the nodes, one value crosses between parts, two in AmoebaNet-D and GNMT, skips in U-Nets, names differ, "
    "sizes") {
  for (const ModelEntry& model : model_entries()) {
    const std::string& name = model.name;
    CAPTURE(name);
    const Graph graph = make_model(name, {.image = {1, 75, 75, 3}, .classes = model.classes, .vocabulary = model.vocabulary});
    CHECK(graph.name() == name);

    int next = 0;
    for (const Part& part : graph.parts()) {
      CHECK(part.first == next);
      CHECK(part.last > part.first);
      next = part.last;
      std::set<int> crossing;
      for (int i = part.last; i < int(graph.nodes().size()); ++i)
        for (int input : graph.nodes()[size_t(i)].inputs)
          if (!graph.is_input(input) && graph.values()[size_t(input)].node < part.last) crossing.insert(input);
      if (part.last == int(graph.nodes().size())) continue;
      CHECK(crossing.count(graph.nodes()[size_t(part.last) - 1].value) == 1);
      // Cells read the outputs of two others; the first, and the classifier behind the last, read one.
      const bool of_two_cells = name.starts_with("amoebanet") && &part != &graph.parts().front() && &part != &graph.parts().back() - 1;
      // Of GNMT, the encoder's output or the context as well.
      if (name.starts_with("unet")) CHECK(!crossing.empty());
      else if (name.starts_with("gnmt")) CHECK(crossing.size() <= 2);
      else CHECK(crossing.size() == (of_two_cells ? 2 : 1));
    }
    CHECK(next == int(graph.nodes().size()));

    // Random streams are found by the hash of the name: no two names of a model may share one.
    std::set<uint32_t> hashes;
    size_t tensors = 0;
    for (const Segments& segments : {graph.parameters(), graph.statistics()})
      for (const ParameterSpec& spec : segments.specs) hashes.insert(purpose(spec.name)), ++tensors;
    CHECK(hashes.size() == tensors);

    char size[32];
    std::snprintf(size, sizeof size, "%.2f M parameters, ", double(elements(graph.parameters())) / 1e6);
    const auto entry = std::find_if(model_entries().begin(), model_entries().end(), [&](const ModelEntry& e) { return e.name == name; });
    CHECK(entry->summary.starts_with(size));
  }
}

TEST_CASE("models refuse what they cannot be made of") {
  CHECK(refusal<UsageError>([] {
          make_model("vgg16", {{1, 64, 31, 3}, 10});
        }) == "vgg16 cannot take images of 64x31 pixels: use images of at least 32x32");
  CHECK(contains(refusal<UsageError>([] { make_model("mobilenet_v2", {{1, 64, 31, 0}, 10}); }), "without channels"));
  CHECK(contains(refusal<UsageError>([] { make_model("mobilenet_v2", {{1, 64, 31, 3}, 1}); }), "classes = 1"));
  // The smallest images that each says it takes.
  for (auto [name, side] : {std::pair<std::string, int64_t>{"alexnet", 63},
                            {"vgg16", 32},
                            {"vgg16_bn", 32},
                            {"vgg16_cifar", 32},
                            {"googlenet", 15},
                            {"googlenet_cifar", 4},
                            {"inception_v3", 75},
                            {"densenet121", 29},
                            {"densenet121_cifar", 8},
                            {"mobilenet_v2", 1}})
    CHECK(prediction_shape(make_model(name, {{1, side, side, 3}, 7}), 2) == Shape{2, 1, 1, 7});
  const std::string unknown = refusal<UsageError>([] { make_model("resnet21", {}); });
  CHECK(contains(unknown, "unknown model 'resnet21'"));
  CHECK(contains(unknown, "resnet20"));
  const std::string small = refusal<UsageError>([] { make_model("resnet18", {{1, 64, 31, 3}, 10}); });
  CHECK(contains(small, "resnet18"));
  CHECK(contains(small, "64x31"));
  CHECK(contains(small, "at least 32x32"));
  CHECK(contains(refusal<UsageError>([] { make_model("resnet20", {{1, 3, 8, 3}, 10}); }), "at least 4x4"));
  CHECK(contains(refusal<UsageError>([] { make_model("resnet20", {{1, 32, 32, 0}, 10}); }), "channels"));
  CHECK(contains(refusal<UsageError>([] { make_model("resnet20", {{1, 32, 32, 3}, 1}); }), "classes = 1"));
  CHECK(prediction_shape(make_model("resnet18", {{1, 32, 32, 1}, 2}), 3) == Shape{3, 1, 1, 2});
  CHECK(prediction_shape(make_model("resnet20", {{1, 4, 4, 3}, 2}), 3) == Shape{3, 1, 1, 2});
}

TEST_CASE("logits are torchvision's") {
  const SafeTensors expected = read_safetensors(golden + "models_logits.safetensors");
  for (auto [name, image] :
       {std::pair<std::string, Shape>{"resnet20", {1, 32, 32, 3}}, {"resnet18", {1, 64, 96, 3}}, {"resnet50", {1, 64, 64, 3}}}) {
    CAPTURE(name);
    const Graph graph = make_model(name, {image, 10});
    const Weights weights = from_safetensors(graph, formula_weights(graph), "formula");
    const std::vector<float> ours = run_model(graph, weights, formula_images(image.batch(2)), {}, 2, false).prediction;
    const std::vector<float> theirs = expected.tensors.at(name).floats();
    check_logits(ours, theirs);
  }
}

// See tests/golden/make_model_gradients.py. Every gradient by its norm and its product with a vector of the formula's numbers, which an
// error that is not at right angles to it changes.
TEST_CASE("logits, loss and gradients are PyTorch's, for odd sizes and a batch of three") {
  struct Case {
    std::string name;
    int64_t height, width;
    float shift;
    double worst = 1e-4;  // the relative error of any gradient; half of them are within 1e-4
  };
  const SafeTensors expected = read_safetensors(golden + "model_gradients.safetensors");
  for (const auto& [name, height, width, shift, worst] : {Case{"alexnet", 67, 75, 0},
                                                          {"amoebanet_d_3x16", 67, 75, 6},
                                                          {"densenet121", 101, 131, 3},
                                                          {"googlenet", 65, 81, 6, 3e-2},
                                                          {"inception_v3", 139, 139, 6, 3e-2},
                                                          {"mobilenet_v2", 101, 131, 3},
                                                          {"resnet18", 65, 97, 6}}) {
    CAPTURE(name);
    const Shape image{3, height, width, 3};
    const Graph graph = make_model(name, {image.batch(1), 10});
    Weights weights = from_safetensors(graph, formula_weights(graph, 1.4), "formula");
    const std::vector<float> images = formula_images(image);
    check_logits(run_model(graph, weights, images, {}, 3, false).prediction, expected.tensors.at(name + "/logits").floats());

    for (const Node& node : graph.nodes())
      if (node.layer->kind() == std::string("batch_norm")) {
        const int64_t bias = weights.parameters.offsets[size_t(weights.parameters.find(node.layer->name() + ".bias"))];
        for (int64_t c = 0; c < node.layer->parameters()[1].count(); ++c) weights.parameter_values[size_t(bias + c)] += shift;
      }
    const ModelPass trained = run_model(graph, weights, images, {0, 3, 6}, 3, true);
    CHECK(trained.loss == doctest::Approx(expected.tensors.at(name + "/loss").floats()[0]).epsilon(1e-5));
    check_gradients(graph, trained.gradients, expected.tensors.at(name + "/gradients").floats(), worst);
  }
}

// See tests/golden/make_unet.py.
TEST_CASE("U-Net: names, parameters, logits, loss and gradients are those of torchgpipe's model, for sides that poolings do not divide") {
  const SafeTensors expected = read_safetensors(golden + "unet.safetensors");
  const Shape image{2, 131, 99, 3};
  const Graph graph = unet(3, 4, {image.batch(1), 3});
  const std::vector<uint8_t>& names = expected.tensors.at("names").bytes;
  CHECK(tensor_list(graph) == std::string(names.begin(), names.end()));

  std::vector<int32_t> labels;
  for (int64_t i = 0; i < image.rows(); ++i) labels.push_back(int32_t((formula("labels", i, 1) + 1) * 1.5));
  const ModelPass trained =
      run_model(graph, from_safetensors(graph, formula_weights(graph), "formula"), formula_images(image), labels, 2, true);
  std::vector<float> some;
  for (size_t i = 0; i < trained.prediction.size(); i += 307) some.push_back(trained.prediction[i]);
  check_logits(some, expected.tensors.at("logits").floats());
  CHECK(trained.loss == doctest::Approx(expected.tensors.at("loss").floats()[0]).epsilon(1e-5));
  check_gradients(graph, trained.gradients, expected.tensors.at("gradients").floats(), 1e-3);
}

// torchgpipe's model has one output for each pixel where this has one for each class. It publishes 362.2M, 2.21B, 4.99B, 7.80B and 15.82B.
TEST_CASE("U-Net: the sizes that torchgpipe publishes") {
  const SafeTensors file = read_safetensors(golden + "unet.safetensors");
  size_t place = 0;
  for (auto [blocks, channels] : {std::pair{5, 64}, {6, 72}, {11, 128}, {24, 128}, {24, 160}, {48, 160}}) {
    CAPTURE(blocks);
    int64_t expected = 0;
    std::memcpy(&expected, file.tensors.at("counts").bytes.data() + 8 * place++, 8);
    const Graph graph = unet(blocks, channels, {{1, 192, 192, 3}, 2});
    CHECK(elements(graph.parameters()) == expected + channels / 2);
    CHECK(prediction_shape(graph, 3) == Shape{3, 192, 192, 2});
  }
  CHECK(make_model("unet_5x64", {{1, 192, 192, 3}, 2}).parts().size() == 5 * 5 + 5 + 5 * 5 + 1);
  CHECK(refusal<UsageError>([] {
          unet(2, 7, {{1, 64, 64, 3}, 2});
        }) == "unet_2x7 has no shape: give at least 1 block a level, and an even number of channels");
  CHECK(refusal<UsageError>([] {
          unet(2, 8, {{1, 64, 63, 3}, 2});
        }) == "unet_2x8 cannot take images of 64x63 pixels: use images of at least 64x64");
}

TEST_CASE("weights of auxiliary classifiers are left out, and others that are unknown are not") {
  for (auto [name, auxiliary] :
       {std::pair<std::string, std::string>{"googlenet", "aux2.fc1.weight"}, {"inception_v3", "AuxLogits.fc.bias"}}) {
    const Graph graph = make_model(name, {{1, 75, 75, 3}, 10});
    const Weights weights = initial_weights(graph, 1);
    SafeTensors file = to_safetensors(weights);
    const float value = 1;
    file.tensors[auxiliary] = FileTensor::f32({1}, &value);
    CHECK(weights_digest(from_safetensors(graph, file, "with auxiliary")) == weights_digest(weights));
    file.tensors["aux3.fc1.weight"] = FileTensor::f32({1}, &value);
    CHECK(contains(refusal<UsageError>([&] { from_safetensors(graph, file, "another"); }), "1 unknown: aux3.fc1.weight"));
  }
}

TEST_CASE("initial weights: torchvision's distributions") {
  const Graph graph = make_model("resnet18", {{1, 32, 32, 3}, 10});
  Weights weights = initial_weights(graph, 5);
  for (size_t i = 0; i < weights.parameters.specs.size(); ++i) {
    const ParameterSpec& spec = weights.parameters.specs[i];
    CAPTURE(spec.name);
    const float* values = weights.parameter_values.data() + weights.parameters.offsets[i];
    double sum = 0, squares = 0, n = double(spec.count());
    float low = values[0], high = values[0];
    for (int64_t j = 0; j < spec.count(); ++j) {
      sum += values[j], squares += double(values[j]) * values[j];
      low = std::min(low, values[j]), high = std::max(high, values[j]);
    }
    if (spec.shape.size() == 4) {  // normal, variance 2 / fan-out
      const double deviation = std::sqrt(2.0 / double(spec.shape[0] * spec.shape[1] * spec.shape[2]));
      CHECK(std::abs(sum / n) < 5 * deviation / std::sqrt(n));
      CHECK(std::abs(std::sqrt(squares / n) / deviation - 1) < 5 / std::sqrt(2 * n));
      CHECK(high > 2.5 * deviation);
    } else if (spec.name.starts_with("fc")) {  // uniform, within 1 / sqrt(inputs)
      const float bound = 1 / std::sqrt(512.f);
      CHECK(low >= -bound);
      CHECK(high <= bound);
      if (spec.name == "fc.weight") CHECK(std::abs(std::sqrt(3 * squares / n) / bound - 1) < 0.05);
      else CHECK(high > low);
    } else {
      const float expected = spec.name.ends_with("weight") ? 1 : 0;
      CHECK(low == expected);
      CHECK(high == expected);
    }
  }
  for (size_t i = 0; i < weights.statistics.specs.size(); ++i) {
    const ParameterSpec& spec = weights.statistics.specs[i];
    const float* values = weights.statistic_values.data() + weights.statistics.offsets[i];
    for (int64_t j = 0; j < spec.count(); ++j) REQUIRE(values[j] == (spec.name.ends_with("running_var") ? 1.f : 0.f));
  }
}

TEST_CASE("initial weights depend on seed and name alone") {
  const auto named = [](const Graph& graph, uint64_t seed) { return to_safetensors(initial_weights(graph, seed)).tensors; };
  const auto a = named(make_model("resnet20", {{1, 32, 32, 3}, 10}), 5);
  const auto deeper = named(make_model("resnet32", {{1, 16, 24, 3}, 7}), 5);
  const auto other_seed = named(make_model("resnet20", {{1, 32, 32, 3}, 10}), 6);
  const auto again = named(make_model("resnet20", {{1, 32, 32, 3}, 10}), 5);
  int compared = 0;
  std::set<std::vector<float>> contents;
  for (const auto& [name, tensor] : a) {
    CAPTURE(name);
    CHECK(again.at(name).bytes == tensor.bytes);
    if (deeper.count(name) && deeper.at(name).shape == tensor.shape) {
      CHECK(deeper.at(name).bytes == tensor.bytes);
      ++compared;
    }
    const bool random = tensor.shape.size() == 4 || name.starts_with("fc");
    if (random) CHECK(other_seed.at(name).bytes != tensor.bytes);
    if (random) CHECK(contents.insert(tensor.floats()).second);  // no two tensors alike
  }
  CHECK(compared > 100);

  // A cut model begins with the same weights as the whole one.
  const Graph graph = make_model("resnet20", {});
  const Weights whole = initial_weights(graph, 5);
  const Part& part = graph.parts()[4];
  const Segments cut = graph.collect(part.first, part.last, &Layer::parameters);
  std::vector<float> values(size_t(cut.total));
  initialize(cut, 5, values.data());
  for (size_t i = 0; i < cut.specs.size(); ++i) {
    const float* expected = whole.parameter_values.data() + whole.parameters.offsets[size_t(whole.parameters.find(cut.specs[i].name))];
    CHECK(std::equal(expected, expected + cut.specs[i].count(), values.data() + cut.offsets[i]));
  }
}

TEST_CASE("weights go to a file and back, bit for bit") {
  const Graph graph = make_model("resnet20", {});
  const Weights weights = distinct_weights(graph);
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("pipecast_test_models_" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  const std::string path = (folder / "weights.safetensors").string();
  write_safetensors(path, to_safetensors(weights));
  const SafeTensors file = read_safetensors(path);
  std::filesystem::remove_all(folder);
  check_equal_bits(from_safetensors(graph, file, path), weights);

  // [O,I,H,W] in the file, [O,H,W,I] in memory.
  const FileTensor& tensor = file.tensors.at("layer2.0.conv1.weight");
  CHECK(tensor.shape == std::vector<int64_t>{32, 16, 3, 3});
  const std::vector<float> values = tensor.floats();
  for (int64_t o = 0; o < 32; ++o)
    for (int64_t i = 0; i < 16; ++i)
      for (int64_t h = 0; h < 3; ++h)
        for (int64_t w = 0; w < 3; ++w)
          REQUIRE(values[size_t(((o * 16 + i) * 3 + h) * 3 + w)] == formula("layer2.0.conv1.weight", ((o * 3 + h) * 3 + w) * 16 + i, 1));
  const FileTensor& counter = file.tensors.at("bn1.num_batches_tracked");
  CHECK(counter.type == "I64");
  CHECK(counter.shape.empty());
}

TEST_CASE("a file that does not fit: everything wrong is reported at once") {
  const Graph graph = tiny();
  const SafeTensors good = to_safetensors(distinct_weights(graph));
  const auto refused = [&](const SafeTensors& file) { return refusal<UsageError>([&] { from_safetensors(graph, file, "some/path"); }); };
  CHECK(refused(good) == "(no error)");

  const float zeros[200] = {};
  SafeTensors bad = good;
  bad.tensors.erase("conv.weight");
  CHECK(contains(refused(bad), "1 missing: conv.weight"));
  bad = good;
  bad.tensors["extra"] = FileTensor::f32({1}, zeros);
  CHECK(contains(refused(bad), "1 unknown: extra"));
  bad = good;
  bad.tensors["fc.weight"] = FileTensor::f32({5, 2}, zeros);
  CHECK(contains(refused(bad), "1 of another shape: fc.weight ([5,2], not [2,5])"));
  bad = good;
  bad.tensors["conv.weight"] = FileTensor::f32({5, 3, 9}, zeros);
  CHECK(contains(refused(bad), "conv.weight ([5,3,9], not [5,3,3,3])"));
  bad = good;
  bad.tensors["a.bias"].type = "I32";
  CHECK(contains(refused(bad), "1 of another type: a.bias (I32, not F32)): save these tensors in the types that are asked for"));
  bad = good;
  bad.tensors["a.num_batches_tracked"] = {"BOOL", {}, {0}};
  CHECK(contains(refused(bad), "a.num_batches_tracked (BOOL, not I64)"));

  bad = good;
  for (const char* name : {"conv.weight", "a.weight", "a.bias", "a.running_mean"}) bad.tensors.erase(name);
  bad.tensors["extra"] = bad.tensors["more"] = FileTensor::f32({1}, zeros);
  bad.tensors["fc.weight"] = FileTensor::f32({10}, zeros);
  bad.tensors["fc.bias"].type = "U32";
  const std::string all = refused(bad);
  CAPTURE(all);
  CHECK(contains(all, "'some/path'"));
  CHECK(contains(all, "'tiny'"));
  CHECK(contains(all, "4 missing: conv.weight, a.weight, a.bias, ..."));
  CHECK(contains(all, "2 unknown: extra, more"));
  CHECK(contains(all, "1 of another shape: fc.weight"));
  CHECK(contains(all, "1 of another type: fc.bias"));
}

TEST_CASE("values that no training leaves behind are refused, with the tensor and the number of them") {
  const Graph graph = tiny();
  const Weights good = distinct_weights(graph);
  const auto refused = [&](const SafeTensors& file) { return refusal<UsageError>([&] { from_safetensors(graph, file, "some/path"); }); };
  const auto with = [&](const char* name, std::vector<float> values) {
    SafeTensors file = to_safetensors(good);
    std::vector<float> all = file.tensors.at(name).floats();
    std::copy(values.begin(), values.end(), all.begin());
    file.tensors[name] = FileTensor::f32(file.tensors.at(name).shape, all.data());
    return file;
  };
  CHECK(contains(refused(with("a.weight", {NAN, 1, INFINITY})), "1 with values that are not finite: a.weight (2)"));
  CHECK(contains(refused(with("a.running_var", {-1})), "1 with negative variances: a.running_var (1)"));
  CHECK(refused(with("a.running_var", {0})) == "(no error)");
  CHECK(refused(with("a.running_mean", {-1})) == "(no error)");
  SafeTensors file = to_safetensors(good);
  for (const int64_t steps : {int64_t(-1), (int64_t(1) << 24) + 1, std::numeric_limits<int64_t>::max()}) {
    file.tensors["a.num_batches_tracked"] = FileTensor::i64({}, &steps);
    CHECK(contains(refused(file), "1 with a count outside 0 to 16777216: a.num_batches_tracked (" + std::to_string(steps) + ")"));
  }
  const float half = 0.5f;
  file.tensors["a.num_batches_tracked"] = FileTensor::f32({}, &half);
  CHECK(contains(refused(file), "a.num_batches_tracked (no whole number of 64 bits)"));
  CHECK(contains(refused(file), "or give --allow-bad-values"));
}

TEST_CASE("bad values are taken where that is asked for: floats bit for bit, counts as near as they may be") {
  const Graph graph = tiny();
  Weights weights = distinct_weights(graph);
  const auto put = [](const Segments& segments, std::vector<float>& values, const char* name, float value) {
    values[size_t(segments.offsets[size_t(segments.find(name))])] = value;
  };
  put(weights.parameters, weights.parameter_values, "a.weight", NAN);
  put(weights.statistics, weights.statistic_values, "a.running_var", -INFINITY);
  SafeTensors file = to_safetensors(weights);
  for (const auto& [steps, taken] : {std::pair{int64_t(-1), int64_t(0)},
                                     {(int64_t(1) << 24) - 1, (int64_t(1) << 24) - 1},
                                     {(int64_t(1) << 24) + 1, int64_t(1) << 24},
                                     {std::numeric_limits<int64_t>::max(), int64_t(1) << 24}}) {
    file.tensors["a.num_batches_tracked"] = FileTensor::i64({}, &steps);
    put(weights.statistics, weights.statistic_values, "a.num_batches_tracked", float(taken));
    check_equal_bits(from_safetensors(graph, file, "bad", BadValues::take), weights);
    CHECK(to_safetensors(from_safetensors(graph, file, "bad", BadValues::take)).tensors.at("a.num_batches_tracked").whole_number() == taken);
  }
}

TEST_CASE("a counter may be of any type of number, and have one dimension") {
  const Graph graph = tiny();
  const Weights weights = distinct_weights(graph);
  for (const auto& [type, bytes] : std::map<std::string, std::vector<uint8_t>>{{"U8", {7}},
                                                                               {"I8", {7}},
                                                                               {"U16", {7, 0}},
                                                                               {"I16", {7, 0}},
                                                                               {"U32", {7, 0, 0, 0}},
                                                                               {"I32", {7, 0, 0, 0}},
                                                                               {"U64", {7, 0, 0, 0, 0, 0, 0, 0}},
                                                                               {"I64", {7, 0, 0, 0, 0, 0, 0, 0}},
                                                                               {"F16", {0, 0x47}},
                                                                               {"BF16", {0xe0, 0x40}},
                                                                               {"F32", {0, 0, 0xe0, 0x40}},
                                                                               {"F64", {0, 0, 0, 0, 0, 0, 0x1c, 0x40}}}) {
    CAPTURE(type);
    for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}}) {
      SafeTensors file = to_safetensors(weights);
      file.tensors["a.num_batches_tracked"] = {type, shape, bytes};
      const SafeTensors back = to_safetensors(from_safetensors(graph, file, "counter"));
      CHECK(back.tensors.at("a.num_batches_tracked").whole_number() == 7);
      CHECK(back.tensors.at("a.num_batches_tracked").type == "I64");
    }
  }
}

TEST_CASE("files of other tools: wrapped names, other types, counters of other forms") {
  const Graph graph = tiny();
  const Weights weights = distinct_weights(graph);
  const SafeTensors file = to_safetensors(weights);
  for (const std::string prefix : {"module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "state_dict.", "net.model.module."}) {
    CAPTURE(prefix);
    SafeTensors wrapped;
    for (const auto& [name, tensor] : file.tensors) wrapped.tensors[prefix + name] = tensor;
    check_equal_bits(from_safetensors(graph, wrapped, "wrapped"), weights);
    wrapped.tensors["other"] = FileTensor::f32({}, weights.parameter_values.data());
    CHECK(contains(refusal<UsageError>([&] { from_safetensors(graph, wrapped, "wrapped"); }), "unknown"));
    wrapped.tensors.erase("other");
    wrapped.tensors.erase(prefix + "conv.weight");
    CHECK(contains(refusal<UsageError>([&] { from_safetensors(graph, wrapped, "wrapped"); }), "(tensors 1 missing: conv.weight)"));
  }
  SafeTensors other = file;
  const int64_t steps = int64_t(1) << 24;
  const int32_t narrow = 1 << 24;
  other.tensors["a.num_batches_tracked"] = FileTensor::i64({1}, &steps);
  const std::string digest = weights_digest(from_safetensors(graph, other, "[1]"));
  CHECK(digest != weights_digest(weights));
  FileTensor counter{"I32", {}, std::vector<uint8_t>(4)};
  std::memcpy(counter.bytes.data(), &narrow, 4);
  other.tensors["a.num_batches_tracked"] = counter;
  CHECK(weights_digest(from_safetensors(graph, other, "I32")) == digest);
  std::vector<double> wide(size_t(file.tensors.at("a.bias").count()));
  const std::vector<float> values = file.tensors.at("a.bias").floats();
  std::copy(values.begin(), values.end(), wide.begin());
  FileTensor doubles{"F64", file.tensors.at("a.bias").shape, std::vector<uint8_t>(wide.size() * 8)};
  std::memcpy(doubles.bytes.data(), wide.data(), doubles.bytes.size());
  other = file;
  other.tensors["a.bias"] = doubles;
  check_equal_bits(from_safetensors(graph, other, "F64"), weights);
}

TEST_CASE("the head: layers that depend on the number of classes") {
  for (const ModelEntry& entry : model_entries()) {
    CAPTURE(entry.name);
    const ModelOptions options{.image = {1, 96, 96, 3}};  // large enough for all of them
    const Graph graph = make_model(entry.name, options);
    if (std::ranges::none_of(graph.inputs(), [](const InputSpec& input) { return input.name == "label"; })) continue;  // says tokens
    const std::vector<std::string> head = head_layers(entry.name, options);
    const std::vector<ParameterSpec> specs = make_model(entry.name, options).parameters().specs;
    if (entry.name.starts_with("gnmt")) {  // its classes are the vocabulary
      CHECK(head.empty());
      continue;
    }
    REQUIRE(!head.empty());
    CHECK(specs.back().name.starts_with(head.back() + "."));
  }
  CHECK(head_layers("resnet18", {}) == std::vector<std::string>{"fc"});
}

TEST_CASE("a layer that a file has for another number of classes begins anew, and no other") {
  const auto file_of = [](int64_t classes, const std::string& prefix) {
    SafeTensors file;
    for (const auto& [name, tensor] : to_safetensors(initial_weights(make_model("resnet20", {.classes = classes}), 3)).tensors)
      file.tensors[prefix + name] = tensor;
    return file;
  };
  const Graph graph = make_model("resnet20", {.classes = 10});
  for (const std::string prefix : {"", "module."}) {
    SafeTensors file = file_of(7, prefix);
    const std::vector<RenewedLayer> renewed = renew(file, graph, {"fc"}, 5);
    REQUIRE(renewed.size() == 1);
    CHECK(renewed[0].name == "fc");
    CHECK(renewed[0].outputs_in_file == 7);
    CHECK(renewed[0].outputs == 10);
    const SafeTensors got = to_safetensors(from_safetensors(graph, file, "file"));
    const SafeTensors fresh = to_safetensors(initial_weights(graph, 5)), given = file_of(7, "");
    for (const auto& [name, tensor] : got.tensors) CHECK(tensor.bytes == (name.starts_with("fc.") ? fresh : given).tensors.at(name).bytes);
    CHECK(renew(file, graph, {"fc"}, 6).empty());
  }
  SafeTensors file = file_of(7, "");
  file.tensors["conv1.weight"].shape[0] = 8;
  renew(file, graph, {"fc"}, 5);
  CHECK_THROWS_AS(from_safetensors(graph, file, "file"), UsageError);  // only what is named begins anew
}

TEST_CASE("names that begin alike without a wrapper stay as they are") {
  Graph graph("alike", {1, 4, 4, 3});
  graph.part("all");
  const int x = graph.add(convolution("net.conv", {.in = 3, .out = 5, .kernel = 3, .padding = 1}), {0});
  graph.add(batch_norm("net.a", {.channels = 5}), {x});
  const Weights weights = distinct_weights(graph);
  SafeTensors file = to_safetensors(weights), wrapped;
  check_equal_bits(from_safetensors(graph, file, "plain"), weights);
  for (const auto& [name, tensor] : file.tensors) wrapped.tensors["net." + name] = tensor;
  check_equal_bits(from_safetensors(graph, wrapped, "wrapped"), weights);
}

TEST_CASE("tensors that are no floats and that the model does not ask for are left out") {
  const Graph graph = tiny();
  const Weights weights = distinct_weights(graph);
  SafeTensors plain = to_safetensors(weights), wrapped;
  for (const auto& [name, tensor] : plain.tensors) wrapped.tensors["module." + name] = tensor;
  for (SafeTensors* file : {&plain, &wrapped}) {
    file->tensors["n_averaged"] = {"I64", {}, std::vector<uint8_t>(8)};  // of PyTorch's AveragedModel, beside its module
    file->tensors["scales"] = {"F8_E8M0", {3}, {1, 2, 3}};
    file->tensors["packed"] = {"F6_E2M3", {4}, {1, 2, 3}};
    file->tensors["mask"] = {"U16", {1}, {1, 2}};
    check_equal_bits(from_safetensors(graph, *file, "more"), weights);
  }
  plain.tensors["conv.weight"].type = "U32";
  CHECK(contains(refusal<UsageError>([&] { from_safetensors(graph, plain, "more"); }), "conv.weight (U32, not F32)"));
}

TEST_CASE("the shared beginning of hostile names is short enough to try every dot in it") {
  SafeTensors file;
  file.tensors[std::string(1 << 20, '.')] = FileTensor::f32({}, std::vector<float>{1}.data());
  CHECK(contains(refusal<UsageError>([&] { from_safetensors(tiny(), file, "dots"); }), "1 unknown: ..."));
}

TEST_CASE("files without counters are read, the counters being 0") {
  const Graph graph = tiny();
  SafeTensors file = to_safetensors(distinct_weights(graph));
  file.tensors.erase("a.num_batches_tracked");
  Weights weights = from_safetensors(graph, file, "old");
  int counters = 0;
  each_real_element(weights, [&](const ParameterSpec& spec, int64_t, float& value) {
    if (!spec.counter) return;
    CHECK(value == 0);
    ++counters;
  });
  CHECK(counters == 1);
}

TEST_CASE("the digest is of the values in the order of their names, and of every one of them") {
  const Graph graph = tiny();
  Weights weights = distinct_weights(graph);
  std::map<std::string, std::vector<float>> by_name;
  each_real_element(weights, [&](const ParameterSpec& spec, int64_t, float& value) { by_name[spec.name].push_back(value); });
  Sha256 sha;
  for (const char* name :
       {"a.bias", "a.num_batches_tracked", "a.running_mean", "a.running_var", "a.weight", "conv.weight", "fc.bias", "fc.weight"})
    sha.add(by_name.at(name).data(), by_name.at(name).size() * sizeof(float));
  const std::string digest = weights_digest(weights);
  CHECK(digest == sha.hex());

  std::set<std::string> seen = {digest};
  each_real_element(weights, [&](const ParameterSpec& spec, int64_t j, float& value) {
    CAPTURE(spec.name);
    CAPTURE(j);
    const float before = value;
    value = std::nextafter(value, 9e9f);
    CHECK(seen.insert(weights_digest(weights)).second);
    value = before;
  });
  CHECK(seen.size() == 1 + 5 * 27 + 4 * 5 + 1 + 12);
  CHECK(weights_digest(weights) == digest);
  weights.parameter_values.back() = 1;  // between segments: not a weight
  CHECK(weights.parameters.total > weights.parameters.offsets.back() + weights.parameters.specs.back().count());
  CHECK(weights_digest(weights) == digest);
}
