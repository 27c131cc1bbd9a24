#pragma once
// What models that read images are made with: a graph that keeps the number of channels beside each value.
#include <cmath>

#include "layers/layers.h"
#include "models/models.h"

namespace pipecast {

// A value of the graph.
struct Features {
  int value = 0;
  int64_t channels = 0;
};

class ImageModel {
 public:
  // Throws UsageError for images without channels or with a side below `smallest_side`, and for fewer than two classes.
  ImageModel(const std::string& name, const ModelOptions&, int64_t smallest_side);

  Features image() const { return {0, options_.image.c}; }
  int64_t classes() const { return options_.classes; }
  void part(const std::string& name) { graph_.part(name); }
  // Tensors whose names begin so may be in files of weights; see Graph::leave_out.
  void leave_out(std::string beginning) { graph_.leave_out(std::move(beginning)); }

  // A layer of one input that keeps the channels.
  Features add(std::unique_ptr<Layer>, Features);
  Features convolution(const std::string& name, Features, ConvolutionOptions);  // `in` is known
  Features norm(const std::string& name, Features, BatchNormOptions = {.relu = true});
  Features add_and_norm(const std::string& name, Features, Features second, BatchNormOptions);  // the end of a residual block
  Features concatenation(const std::string& name, const std::vector<Features>&);
  Features sum(const std::string& name, const std::vector<Features>&);
  // (n, h, w, c) to (n, 1, 1, pixels * c).
  Features flatten(const std::string& name, Features, int64_t pixels);
  Features linear(const std::string& name, Features, LinearOptions);  // `in` is known

  // With the loss of a classifier behind the logits.
  Graph finish(Features logits) &&;
  // The same where every pixel of the image has a label and logits of its own.
  Graph finish_pixels(Features logits) &&;

 private:
  ModelOptions options_;
  Graph graph_;
};

}  // namespace pipecast
