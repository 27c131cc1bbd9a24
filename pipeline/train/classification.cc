#include "pipeline/train/classification.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/error.h"
#include "layers/layer.h"

namespace pipecast {
namespace {

// How many classes come before `own`. What is not a number is behind all others.
int64_t rank(const float* logits, int64_t classes, int64_t own) {
  int64_t before = 0;
  for (int64_t c = 0; c < classes; ++c) before += c < own ? !(logits[own] > logits[c]) : c > own && !(logits[own] >= logits[c]);
  return before;
}

}  // namespace

const InputSpec* label_column(const Batches& data) {
  for (const InputSpec& column : data.samples().columns())
    if (column.name == "label" && column.sample.storage == Storage::int32 && column.sample.shape.c == 1 && !column.sequence) return &column;
  return nullptr;
}

bool classifies(const Graph& graph, const Batches& data) {
  const std::vector<std::string> means = graph.loss() ? graph.loss()->means() : std::vector<std::string>{};
  return std::ranges::count(means, "accuracy") > 0 && label_column(data);
}

std::optional<double> perplexity(const Graph& graph, double loss) {
  if (!graph.loss() || std::ranges::count(graph.loss()->means(), "accuracy") == 0) return {};
  for (const int value : graph.nodes().back().inputs)
    if (graph.is_input(value) && graph.input_of(value).sequence) return std::exp(loss);
  return {};
}

std::vector<int32_t> labels_of(const Batches& data) {
  const InputSpec* label = label_column(data);
  if (!label) throw UsageError("the data set has no column of labels: choose one whose samples have a class");
  const size_t column = data.column(*label);
  std::vector<int32_t> labels, of_batch;
  for (int64_t index = 0; index < data.per_epoch(); ++index) {
    of_batch.resize(size_t(data.size(index) * label->sample.shape.count()));
    data.read(index, column, of_batch.data());
    labels.insert(labels.end(), of_batch.begin(), of_batch.end());
  }
  return labels;
}

Classification::Classification(const Batches& data) : labels_(labels_of(data)) {}

void Classification::add(const Tensor& logits) {
  const int64_t rows = logits.shape.rows();
  if (classes_ == 0) {
    classes_ = logits.shape.c;
    confusion_.resize(size_t(classes_ * classes_));
  }
  if (next_ + rows > int64_t(labels_.size()) || logits.shape.c != classes_)
    throw Error("a classification of " + std::to_string(labels_.size()) + " labels and " + std::to_string(classes_) +
                " classes was given logits of " + to_string(logits.shape) + " after " + std::to_string(next_) + " labels");
  for (int64_t i = 0; i < rows; ++i, ++next_) {
    const float* row = logits.as<float>() + i * classes_;
    const int64_t own = labels_[size_t(next_)], first = std::max_element(row, row + classes_) - row;
    ++confusion_[size_t(own * classes_ + first)];
    in_top5_ += rank(row, classes_, own) < 5;
  }
}

int64_t Classification::samples_of(int64_t own) const {
  const auto row = confusion_.begin() + own * classes_;
  return std::accumulate(row, row + classes_, int64_t(0));
}

double Classification::matthews_correlation() const {
  // In the terms of Gorodkin 2004: c samples are right of s; class k is the label of t_k and the prediction of p_k.
  double c = 0, tp = 0, tt = 0, pp = 0;
  const double s = double(next_);
  for (int64_t k = 0; k < classes_; ++k) {
    double p = 0;
    for (int64_t label = 0; label < classes_; ++label) p += double(taken(label, k));
    const double t = double(samples_of(k));
    c += double(taken(k, k)), tp += t * p, tt += t * t, pp += p * p;
  }
  const double scale = std::sqrt((s * s - pp) * (s * s - tt));
  return scale > 0 ? (c * s - tp) / scale : 0;
}

double Classification::accuracy_of(int64_t own) const {
  const int64_t samples = samples_of(own);
  return samples > 0 ? double(taken(own, own)) / double(samples) : std::nan("");
}

}  // namespace pipecast
