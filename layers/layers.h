#pragma once
// The layers there are. Adding one = adding its file and its row here.
#include <limits>
#include <optional>

#include "layers/layer.h"

namespace pipecast {

struct ConvolutionOptions {
  int64_t in = 1, out = 1, kernel = 1;
  std::optional<int64_t> kernel_w = {};  // the width of the kernel, where it is not its height
  int64_t stride = 1, padding = 0;
  std::optional<int64_t> padding_w = {};  // to the left and right, where it is not that above and below
  int64_t dilation = 1, groups = 1;
  bool bias = false;
  std::optional<Initial> initial = {}, bias_initial = {};  // where they do not begin as below
};
// y[n,i,j,o] = sum x[n, i*stride + a*dilation - padding, ..., c] * weight[o,a,b,c] (+ bias[o]). The weight begins normal,
// fan-out (He et al. 2015), the bias uniform as PyTorch's.
std::unique_ptr<Layer> convolution(std::string name, ConvolutionOptions);

struct TransposedConvolutionOptions {
  int64_t in = 1, out = 1, kernel = 1;
  int64_t stride = 1, padding = 0;
  int64_t output_padding = 0;  // more rows below and columns to the right; less than the stride
  bool bias = true;
};
// The gradient of a convolution's input as a layer ("up-convolution"), torch.nn.ConvTranspose2d: every pixel of x adds weight times x to
// the kernel x kernel pixels of y from i * stride - padding on. y has (h - 1) * stride - 2 * padding + kernel + output_padding rows. The
// weight is in x kernel x kernel x out, in PyTorch's files in x out x kernel x kernel; it begins uniform, and so does the bias, as
// PyTorch's.
std::unique_ptr<Layer> transposed_convolution(std::string name, TransposedConvolutionOptions);

struct BatchNormOptions {
  int64_t channels = 1;
  float epsilon = 1e-5f, momentum = 0.1f;                  // running = (1 - momentum) * running + momentum * batch
  bool relu = false;                                       // y = max(0, .) in the same kernel
  bool add = false;                                        // a second input is added before the ReLU: the end of a residual block
  float ceiling = std::numeric_limits<float>::infinity();  // with relu: y = min(ceiling, .) of that; 6 is ReLU6 (Sandler et al. 2018)
};
// y = weight * (x - mean) / sqrt(variance + epsilon) + bias, per channel over n, h, w (Ioffe and Szegedy 2015).
std::unique_ptr<Layer> batch_norm(std::string name, BatchNormOptions);

struct InstanceNormOptions {
  int64_t channels = 1;
  float epsilon = 1e-5f;
  bool affine = false;  // with a weight and a bias
  float slope = 1;      // y = leaky ReLU of that, with this slope, in the same kernel; 1: no leaky ReLU
};
// The same with the mean and variance of each sample's own pixels, in evaluation too, without running statistics (Ulyanov et al. 2016).
std::unique_ptr<Layer> instance_norm(std::string name, InstanceNormOptions);

std::unique_ptr<Layer> relu(std::string name);
std::unique_ptr<Layer> leaky_relu(std::string name, float slope);  // y = x where x > 0, else slope * x
std::unique_ptr<Layer> tanh(std::string name);
enum class GeluForm { erf, tanh };  // x times the normal distribution, or the approximation of it that GPT-2 was trained with
std::unique_ptr<Layer> gelu(std::string name, GeluForm = GeluForm::erf);

struct LayerNormOptions {
  int64_t channels = 1;
  float epsilon = 1e-5f;
  bool add = false;  // a second input is added first: the end of a residual block
};
// y = weight * (x - mean) / sqrt(variance + epsilon) + bias, over the channels of each row (Ba, Kiros and Hinton 2016).
std::unique_ptr<Layer> layer_norm(std::string name, LayerNormOptions);

struct PoolOptions {
  int64_t kernel = 2, stride = 2, padding = 0;
  bool ceil = false;          // one more window where the last pixels would not be in any, as PyTorch's ceil_mode has it. Max only
  bool count_padding = true;  // average: whether padding counts as zeros, PyTorch's count_include_pad
};
std::unique_ptr<Layer> max_pool(std::string name, PoolOptions);
std::unique_ptr<Layer> average_pool(std::string name, PoolOptions);
// (n, h, w, c) -> (n, side, side, c), whatever h and w are: output i is the mean of the pixels from i * h / side, rounded down, to before
// (i + 1) * h / side, rounded up.
std::unique_ptr<Layer> adaptive_average_pool(std::string name, int64_t side);
std::unique_ptr<Layer> global_average_pool(std::string name);  // (n, h, w, c) -> (n, 1, 1, c)

// The pixels at offset, offset + stride, ... of each axis, as many as an axis has pixels at 0, stride, ...; zero for one beyond the image.
struct SubsampleOptions {
  int64_t stride = 2, offset = 0;  // 0 <= offset < stride
};
std::unique_ptr<Layer> subsample(std::string name, SubsampleOptions);

// (n, h, w, c) -> (n, 1, 1, c * h * w), a channel after the other: the order of a flattened NCHW tensor, in which PyTorch's linear layers
// have their weights.
std::unique_ptr<Layer> flatten(std::string name);

struct UpsampleOptions {
  int64_t factor = 2;
  int64_t h = 0, w = 0;  // of y, where they are not factor times x's: y is 0 below and to the right of x's pixels
};
// Every pixel becomes factor x factor of them (nearest).
std::unique_ptr<Layer> upsample(std::string name, UpsampleOptions);

struct LinearOptions {
  int64_t in = 1, out = 1;
  bool bias = true;
  std::optional<Initial> initial = {}, bias_initial = {};  // where they do not begin uniform within 1 / sqrt(in)
  bool transposed = false;                                 // the weight is stored in x out, as GPT-2's files have it
  std::string tied = {};                                   // the weight is that of another layer, by full name (ParameterSpec::tied)
};
// y = x * weight^T + bias over (n, h, w, in), pixel by pixel (or position in time), or over (n, h, w, c) with h*w*c = in, flattened in NHWC
// order, which gives (n, 1, 1, out).
std::unique_ptr<Layer> linear(std::string name, LinearOptions);
inline std::unique_ptr<Layer> linear(std::string name, int64_t in, int64_t out, bool bias = true) {
  return linear(std::move(name), {.in = in, .out = out, .bias = bias});
}

std::unique_ptr<Layer> add(std::string name);                  // y = x[0] + x[1] (+ ...): two or more inputs of one shape
std::unique_ptr<Layer> concatenation(std::string name);        // along the channels, two or more inputs
std::unique_ptr<Layer> dropout(std::string name, float rate);  // y = x * keep / (1 - rate); the mask is replayed in backward
std::unique_ptr<Layer> channel_dropout(std::string name, float rate);  // the same for whole channels of a sample, as Dropout2d

struct SoftmaxCrossEntropyOptions {
  float label_smoothing = 0;  // share of the target that is spread over all classes (Szegedy et al. 2016), in training only
  int32_t ignored = -100;     // a row with this label is not counted and has no gradient
  std::vector<float> class_weights = {};  // empty: all are 1; the mean is over the weights of the labels, as torch.nn.CrossEntropyLoss has it
};
// Losses. Inputs: the logits (n, h, w, classes) and the label of each row (n, h, w, 1), int32 in [0, classes) or the ignored one. A row is
// a sample, or a position of one. Means: loss, accuracy.
// For mixtures of two samples (Zhang et al., "mixup", 2018) two more inputs: a second label, and the share s of the first, fp32 in [0, 1]
// without a gradient, for each row. The loss is s times that of the first label and 1 - s times that of the second, and the accuracy is
// that of the label with the larger share. Not with class weights.
std::unique_ptr<Layer> softmax_cross_entropy(std::string name, SoftmaxCrossEntropyOptions = {});
// Inputs: the prediction and the target, fp32 without a gradient, of one shape. Means: loss, over all elements.
std::unique_ptr<Layer> mean_squared_error(std::string name);

// Text. Tokens (n, length, 1, 1), int32 in [0, vocabulary), become (n, length, 1, features). The token `padding` becomes zeros and its row
// of the weights has no gradient; -1: there is none.
struct EmbeddingOptions {
  int64_t vocabulary = 0, features = 0;
  int32_t padding = 0;
  Initial initial = {Initial::normal, 1};
};
std::unique_ptr<Layer> embedding(std::string name, EmbeddingOptions);

// Adds an embedding of its place to each position of a sequence (n, length, 1, features).
enum class PositionForm {
  learned,     // weight: most x features; position t has row first + t
  constant,    // weight: 1 x features, the same for every position: the only type of tokens of a model that knows one
  sinusoidal,  // no weight: sines and cosines (Vaswani et al. 2017)
};
struct PositionOptions {
  PositionForm form = PositionForm::learned;
  int64_t most = 0, features = 0, first = 0;
  Initial initial = {Initial::normal, 1};
};
std::unique_ptr<Layer> positions(std::string name, PositionOptions);

struct AttentionOptions {
  int64_t features = 0, heads = 1;  // each head has features / heads of them
  bool causal = false;              // a position sees itself and those before it
  float dropout = 0;                // of the probabilities
};
// Attention with several heads. Inputs:
//   queries, keys, values, length    each (n, positions, 1, features); int32 lengths (n, 1, 1, 1) in [0, positions]
//   all three, length                the same, with queries, keys and values side by side: (n, positions, 1, 3 * features)
//   queries, keys, values, length, query_length    queries of other sequences than the keys: (n, other positions, 1, features); not causal
// y: as the queries, (n, positions, 1, features). Positions from a sample's length on have y = 0 and gradients of 0, and so has all of a
// sample without keys. Memory is linear in the length.
std::unique_ptr<Layer> attention(std::string name, AttentionOptions);

// (n, length, 1, c) -> (n, 1, 1, c): position 0 of each sample.
std::unique_ptr<Layer> first_position(std::string name);
// The mean over the first length[n] positions: (n, length, 1, c) and int32 lengths (n, 1, 1, 1) in [0, length] become (n, 1, 1, c). The
// mean of no positions is 0.
std::unique_ptr<Layer> masked_mean(std::string name);

struct LstmOptions {
  int64_t in = 1, hidden = 1;
  bool bidirectional = false;
  // Where weights, bias_ih and bias_hh do not begin uniform within 1 / sqrt(hidden).
  std::optional<Initial> initial = {}, bias_initial = {}, hidden_bias_initial = {};
};
// A long short-term memory over time: (n, length, 1, in) becomes (n, length, 1, hidden), or twice as many channels, forward direction
// first. A second input, int32 lengths (n, 1, 1, 1) in [0, length], ends each sample: behind its length the output is 0, and the backward
// direction begins at its end, as in PyTorch's packed sequences. The state is 0 before the first position. Parameters are named as
// torch.nn.LSTM's.
std::unique_ptr<Layer> lstm(std::string name, LstmOptions);

struct BahdanauOptions {
  int64_t features = 1;                 // of queries and keys
  std::optional<Initial> initial = {};  // of linear_att, where it does not begin uniform within 0.1
};
// Additive attention with a normalised energy. Inputs: queries (n, q, 1, features), keys (n, k, 1, features), values (n, k, 1, c), the
// int32 number of keys of each sample (n, 1, 1, 1), and perhaps that of queries. Output: (n, q, 1, c), for each query a mean of the
// sample's values, weighted by v . tanh(query + key + b); 0 behind the number of queries. In GNMT, queries and keys come from linear layers
// without a bias.
std::unique_ptr<Layer> bahdanau_attention(std::string name, BahdanauOptions);

}  // namespace pipecast
