#pragma once
// How a classifier did on a data set, class by class.
#include <cstdint>
#include <optional>
#include <vector>

#include "data/batches.h"
#include "models/graph.h"

namespace pipecast {

// The data set's column of labels, one for each sample or for each of its pixels; null where it has none.
const InputSpec* label_column(const Batches&);
// All labels of an epoch, in the order of the data. Throws UsageError where it has none.
std::vector<int32_t> labels_of(const Batches&);
// Whether the model's loss tells hits, and the data has labels.
bool classifies(const Graph&, const Batches&);

// The perplexity of a model that says a token at each position: e to the mean loss of a token. Nothing for other models.
std::optional<double> perplexity(const Graph&, double loss);

// Counts of an evaluation. What has a label is called a sample here; where each pixel has one, it is a pixel. A hit is a sample whose label
// has the largest logit (of equal ones, the first).
class Classification {
 public:
  // The labels of the samples of an epoch, in the order of `data`.
  explicit Classification(const Batches& data);

  // The logits of the next samples, {n, h, w, classes}: n * h * w of them.
  void add(const Tensor& logits);

  int64_t classes() const { return classes_; }  // 0 before the first add()
  int64_t samples() const { return next_; }     // so far
  // How many samples with the first class as their label were taken for the second.
  int64_t taken(int64_t label, int64_t prediction) const { return confusion_[size_t(label * classes_ + prediction)]; }
  int64_t samples_of(int64_t label) const;
  double accuracy_of(int64_t label) const;                          // NaN where no sample has the label
  // The correlation of labels and predictions, -1 to 1 (Matthews 1975; of more than two classes, Gorodkin 2004); 0 where it is undefined,
  // as scikit-learn and GLUE have it.
  double matthews_correlation() const;
  double top5() const { return double(in_top5_) / double(next_); }  // the share of samples whose label is among the five largest logits

 private:
  std::vector<int32_t> labels_;
  std::vector<int64_t> confusion_;  // classes x classes, a row for each label
  int64_t classes_ = 0, next_ = 0, in_top5_ = 0;
};

}  // namespace pipecast
