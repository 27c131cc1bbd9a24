// AmoebaNet-D (L, F) (Real et al. 2018, "Regularized evolution for image classifier architecture search", its appendix), in the two sizes L
// and F by which GPipe (Huang et al. 2018) and torchgpipe (Kim et al. 2020) give it: a stem, then three groups of L / 3 normal cells of F,
// 2 F and 4 F channels, with a reduction cell, which halves the sides, between two groups.
//
// A cell reads the outputs of the two cells before it, so that two tensors cross a border between stages. Names, parts, and which values a
// normal cell passes on are those of torchgpipe's benchmark: with these its counts of parameters are GPipe's. Two things are not as there:
// max_pool_3x3 takes the maximum, as the paper has it, where the benchmark takes the average; and pooling with a stride of 2 takes odd
// sides.
#include <array>

#include "models/image_model.h"

namespace pipecast {
namespace {

enum class Operation { none, avg_pool_3x3, max_pool_3x3, max_pool_2x2, conv_1x1, conv_3x3, conv_1x7_7x1 };
using enum Operation;

// An operation on one of a cell's values. Value 0 is the cell before, value 1 the one before that, both brought to the cell's channels.
struct Branch {
  int value;
  Operation operation;
};
// Pair k makes value 2 + k, the sum of its branches. The cell's output is the values of `passed_on`, side by side.
struct Genotype {
  Branch pairs[5][2];
  std::vector<int> passed_on;
  bool reduction;  // branches of the values 0 and 1 have a stride of 2
};

const Genotype normal_cell = {{{{1, conv_1x1}, {1, max_pool_3x3}},
                               {{1, none}, {0, conv_1x7_7x1}},
                               {{0, conv_1x1}, {0, conv_1x7_7x1}},
                               {{2, max_pool_3x3}, {2, none}},
                               {{1, avg_pool_3x3}, {5, conv_1x1}}},
                              {0, 3, 4, 6},
                              false};
const Genotype reduction_cell = {{{{0, max_pool_2x2}, {0, max_pool_3x3}},
                                  {{2, none}, {1, conv_3x3}},
                                  {{2, conv_1x7_7x1}, {2, max_pool_3x3}},
                                  {{3, none}, {1, max_pool_2x2}},
                                  {{2, avg_pool_3x3}, {3, conv_1x1}}},
                                 {4, 5, 6},
                                 true};

// PyTorch's beginning.
Features convolution(ImageModel& net, const std::string& name, Features x, ConvolutionOptions o) {
  const int64_t area = o.kernel * o.kernel_w.value_or(o.kernel);
  o.initial = {Initial::uniform, 1 / std::sqrt(float(x.channels * area))};
  return net.convolution(name, x, o);
}

// Two convolutions of half the channels; the second sees the image a pixel further down and to the right. x is behind its ReLU.
Features factorised_reduction(ImageModel& net, const std::string& name, Features x, int64_t channels) {
  const Features one = convolution(net, name + ".conv1", x, {.out = channels / 2, .stride = 2});
  const Features shifted = net.add(subsample(name + ".shift", {.stride = 2, .offset = 1}), x);
  const Features two = convolution(net, name + ".conv2", shifted, {.out = channels / 2});
  return net.norm(name + ".bn", net.concatenation(name + ".concatenation", {one, two}), {});
}

// The end of a branch: a value and, of one with convolutions, the name of a batch norm that it still has to go through.
struct Open {
  Features x;
  std::string norm;
};

class Cell {
 public:
  Cell(ImageModel& net, std::string name, const Genotype& genotype) : net_(net), name_(std::move(name)), genotype_(genotype) {}

  Features output(Features value0, Features value1) {
    values_ = {value0, value1};
    int place = 0;  // among torchgpipe's operations
    for (const auto& [first, second] : genotype_.pairs) {
      const Open a = branch(place++, first), b = branch(place++, second);
      values_.push_back(sum(a, b, name_ + ".sum" + std::to_string(values_.size())));
    }
    std::vector<Features> passed_on;
    for (int value : genotype_.passed_on) passed_on.push_back(values_[size_t(value)]);
    return net_.concatenation(name_, passed_on);
  }

 private:
  Open branch(int place, const Branch& b) {
    const std::string name = name_ + ".operations." + std::to_string(place) + ".module";
    const int64_t stride = genotype_.reduction && b.value < 2 ? 2 : 1;
    const Features x = values_[size_t(b.value)];
    const PoolOptions three{.kernel = 3, .stride = stride, .padding = 1, .count_padding = false};
    switch (b.operation) {
      case none: return {x, ""};
      case avg_pool_3x3: return {net_.add(average_pool(name, three), x), ""};
      case max_pool_3x3: return {net_.add(max_pool(name, three), x), ""};
      case max_pool_2x2: return {net_.add(max_pool(name, {.kernel = 2, .stride = stride, .ceil = true}), x), ""};
      case conv_1x1: return {convolution(net_, name + ".1", rectified(b.value), {.out = x.channels, .stride = stride}), name + ".2"};
      case conv_3x3: return bottleneck(name, b.value, {{.kernel = 3, .stride = stride, .padding = 1}});
      default:  // never with a stride
        return bottleneck(name, b.value,
                          {{.kernel = 1, .kernel_w = 7, .padding_w = 3}, {.kernel = 7, .kernel_w = 1, .padding = 3, .padding_w = 0}});
    }
  }

  // 1x1 to a quarter of the channels, these convolutions, 1x1 back; a ReLU before each, a batch norm behind each. In torchgpipe's sequence
  // of modules the ReLUs have the places 0, 3, 6 ..., the convolutions those behind them.
  Open bottleneck(const std::string& name, int value, std::vector<ConvolutionOptions> inner) {
    const int64_t channels = values_[size_t(value)].channels;
    inner.insert(inner.begin(), ConvolutionOptions{.kernel = 1});
    int place = 1;
    Features x = rectified(value);
    const auto at = [&](int p) { return name + "." + std::to_string(p); };
    for (ConvolutionOptions& o : inner) {
      o.out = channels / 4;
      x = net_.norm(at(place + 1), convolution(net_, at(place), x, o));
      place += 3;
    }
    return {convolution(net_, at(place), x, {.out = channels}), at(place + 1)};
  }

  // The ReLU of a value, which all convolutions that read it share.
  Features rectified(int value) {
    auto& [made, x] = rectified_[size_t(value)];
    if (!made) made = true, x = net_.add(relu(name_ + ".relu" + std::to_string(value)), values_[size_t(value)]);
    return x;
  }

  // A batch norm adds the other branch in its own kernel.
  Features sum(const Open& a, const Open& b, const std::string& name) {
    const auto closed = [&](const Open& open) { return open.norm.empty() ? open.x : net_.norm(open.norm, open.x, {}); };
    if (!b.norm.empty()) return net_.add_and_norm(b.norm, b.x, closed(a), {});
    if (!a.norm.empty()) return net_.add_and_norm(a.norm, a.x, b.x, {});
    return net_.sum(name, {a.x, b.x});
  }

  ImageModel& net_;
  std::string name_;
  const Genotype& genotype_;
  std::vector<Features> values_;
  std::array<std::pair<bool, Features>, 7> rectified_{};
};

// The cells behind one another, and what the next one reads.
class Cells {
 public:
  Cells(ImageModel& net, Features stem) : net_(net), last_(stem), channels_(stem.channels) {}

  Features last() const { return last_; }

  // The ReLU of a cell's output is made once, for the two cells that read it. The first cell has one predecessor and reads it twice.
  void add(const std::string& name, const Genotype& genotype) {
    if (genotype.reduction) channels_ *= 2;
    net_.part(name);
    const Features last = net_.add(relu(name + ".reduce1.0"), last_);
    if (before_.channels == 0) before_ = last;
    const Features value0 = reduced(name + ".reduce1", last);
    const std::string reduce2 = name + ".reduce2";
    const Features value1 = before_is_large_ ? factorised_reduction(net_, reduce2, before_, channels_) : reduced(reduce2, before_);
    last_ = Cell(net_, name, genotype).output(value0, value1);
    before_ = last, before_is_large_ = genotype.reduction;
  }

 private:
  Features reduced(const std::string& name, Features x) {
    return net_.norm(name + ".2", convolution(net_, name + ".1", x, {.out = channels_}), {});
  }

  ImageModel& net_;
  Features last_;                 // the output of the last cell
  Features before_;               // the output of the one before it, behind its ReLU
  bool before_is_large_ = false;  // with twice the sides of last_
  int64_t channels_;              // of the values in a cell
};

}  // namespace

Graph amoebanet_d(int64_t layers, int64_t filters, const ModelOptions& options) {
  const std::string name = "amoebanet_d_" + std::to_string(layers) + "x" + std::to_string(filters);
  if (layers < 3 || layers % 3 != 0 || filters < 8 || filters % 8 != 0)
    throw UsageError(name +
                     ": AmoebaNet-D has a number of layers that 3 divides and a number of filters that 8 divides; give such numbers");
  ImageModel net(name, options, 1);
  net.part("stem1");
  const Features image = net.add(relu("stem1.relu"), net.image());
  const Features stem = convolution(net, "stem1.conv", image, {.out = filters / 4, .kernel = 3, .stride = 2, .padding = 1});
  Cells cells(net, net.norm("stem1.bn", stem, {}));
  cells.add("stem2", reduction_cell);
  cells.add("stem3", reduction_cell);
  for (int group = 1; group <= 5; group += 2) {
    for (int64_t i = 1; i <= layers / 3; ++i) cells.add("cell" + std::to_string(group) + "_normal" + std::to_string(i), normal_cell);
    if (group < 5) cells.add("cell" + std::to_string(group + 1) + "_reduction", reduction_cell);
  }
  net.part("classify");
  return std::move(net).finish(
      net.linear("classify.fc", net.add(global_average_pool("classify.pool"), cells.last()), {.out = net.classes()}));
}

}  // namespace pipecast
