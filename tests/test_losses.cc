// Losses with everything that they can be told, and the layers of text: against PyTorch and against differences of themselves, on every
// device.
#include "count_allocations.h"
#include "layers/layers.h"
#include "message_of.h"

using namespace pipecast;
using namespace pipecast::testing;

namespace {

// Floats whose bits are these integers, as they lie in memory.
Values bits_of(const std::vector<int32_t>& integers) {
  Values values;
  for (int32_t v : integers) values.push_back(std::bit_cast<float>(v));
  return values;
}

std::vector<int32_t> integers(const Values& values) { return {values.begin(), values.end()}; }

struct Golden {
  std::string name;
  Values operator()(const char* key) const { return file().tensors.at(name + "/" + key).floats(); }
  bool has(const char* key) const { return file().tensors.contains(name + "/" + key); }
  static const SafeTensors& file() {
    static const SafeTensors file = read_safetensors(GOLDEN_DIR "/losses.safetensors");
    return file;
  }
};

// A layer whose first input has a gradient, and perhaps a second that has none, forward and backward. What must be assigned holds NaN
// before.
struct Run {
  Values y, dx, dweight, sums;
  double counts[2] = {};
  double mean() const { return double(sums[0]) / counts[0]; }
};
struct Second {
  Values bits;  // as they lie in memory
  Shape shape;
  TensorSpec spec;
};
// dy: of a layer that is no loss.
Run run(Layer& layer, Device device, const Values& x, Shape shape, const Second& second, const Values& dy = {}) {
  const std::vector<TensorSpec> specs = {shape, second.spec};
  const Shape out = layer.output(specs).shape;
  const Needs needs = layer.prepare(device, specs);
  Run made;
  const Tensor on_host = {const_cast<float*>(second.bits.data()), second.shape, second.spec.storage};
  const Tensor counted[] = {{nullptr, shape}, on_host};
  layer.count(counted, made.counts);
  Guarded in(device, x), other(device, second.bits), y(device, Values(size_t(out.count()), NAN)), dx(device, Values(x.size(), NAN)),
      sums(device, {0, 0}), scale(device, {made.counts[0] > 0 ? float(1 / made.counts[0]) : 0.f}), gradient(device, dy),
      workspace(device, Values(size_t(needs.workspace), NAN));
  const Tensor inputs[] = {{in.data(), shape}, {other.data(), second.shape, second.spec.storage}};
  const Tensor gradients[] = {{dx.data(), shape}, {nullptr, second.shape, second.spec.storage}};
  Pass p;
  p.device = device, p.x = inputs, p.y = {y.data(), out}, p.workspace = workspace.data(), p.sums = sums.data(), p.scale = scale.data();
  p.dy = {dy.empty() ? nullptr : gradient.data(), out};
  layer.forward(p);
  p.dx = gradients;
  layer.backward(p);
  made.y = y.get(), made.dx = dx.get(), made.sums = sums.get();
  return made;
}

Second labels(const std::vector<int32_t>& labels, Shape shape) { return {bits_of(labels), shape, {shape, Storage::int32}}; }

}  // namespace

TEST_CASE("softmax cross-entropy with an ignored label, weights of classes and smoothing") {
  for (const std::string name : {"ignored", "ignored_smoothing", "weights", "everything"}) {
    const Golden golden{name};
    SoftmaxCrossEntropyOptions options{.label_smoothing = golden("smoothing")[0]};
    if (golden.has("weights")) options.class_weights = golden("weights");
    const auto layer = softmax_cross_entropy("loss", options);
    for (const TestDevice& on : test_devices()) {
      CAPTURE(on.name);
      // Rows are samples, or positions of samples.
      for (const Shape shape : {Shape{8, 1, 1, 7}, Shape{2, 4, 1, 7}}) {
        Shape row = shape;
        row.c = 1;
        const Run made = run(*layer, on.device, golden("logits"), shape, labels(integers(golden("target")), row));
        check_close(name + " loss", made.y, golden("loss"), 1e-6);
        check_close(name + " gradient", made.dx, golden("dlogits"), 1e-6);
        CHECK(made.mean() == doctest::Approx(golden("mean")[0]).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("softmax cross-entropy of mixtures of two samples") {
  for (const std::string name : {"mixture", "mixture_smoothing"}) {
    const Golden golden{name};
    const auto layer = softmax_cross_entropy("loss", {.label_smoothing = golden("smoothing")[0]});
    const Values logits = golden("logits"), first = bits_of(integers(golden("target"))), second = bits_of(integers(golden("second"))),
                 share = golden("share");
    const Shape shape{6, 1, 1, 5}, row{6, 1, 1, 1};
    for (const TestDevice& on : test_devices()) {
      CAPTURE(on.name);
      Guarded in(on.device, logits), one(on.device, first), two(on.device, second), s(on.device, share), y(on.device, Values(6, NAN)),
          dx(on.device, Values(logits.size(), NAN)), sums(on.device, {0, 0}), scale(on.device, {1 / 6.f}),
          workspace(on.device, Values(6, NAN));
      const Tensor x[] = {{in.data(), shape}, {one.data(), row, Storage::int32}, {two.data(), row, Storage::int32}, {s.data(), row}};
      const Tensor gradients[] = {{dx.data(), shape}, {nullptr, row, Storage::int32}, {nullptr, row, Storage::int32}, {nullptr, row}};
      Pass p;
      p.device = on.device, p.x = x, p.y = {y.data(), row}, p.workspace = workspace.data(), p.sums = sums.data(), p.scale = scale.data();
      layer->forward(p);
      p.dx = gradients;
      layer->backward(p);
      check_close(name + " loss", y.get(), golden("loss"), 1e-6);
      check_close(name + " gradient", dx.get(), golden("dlogits"), 1e-6);
      CHECK(sums.get()[1] == golden("hits")[0]);
    }
    const std::vector<TensorSpec> specs = {shape, {row, Storage::int32}, {row, Storage::int32}, {row, Storage::fp32, false}};
    CHECK_THROWS_AS(softmax_cross_entropy("loss", {.class_weights = {1, 2, 3, 4, 5}})->output(specs), UsageError);
    CHECK_THROWS_AS(layer->output(std::span(specs).first(3)), UsageError);
    // A second label counts, and is checked, like the first.
    std::vector<int32_t> ours = integers(golden("target")), others = integers(golden("second"));
    Values shares = share;
    others[1] = -100;
    const Tensor counted[] = {
        {nullptr, shape}, {ours.data(), row, Storage::int32}, {others.data(), row, Storage::int32}, {shares.data(), row}};
    double counts[2];
    layer->count(counted, counts);
    CHECK(counts[0] == 5);
    others[2] = 5;
    CHECK_THROWS_AS(layer->count(counted, counts), UsageError);
  }
}

TEST_CASE("a batch whose labels are all ignored has no loss and no gradient") {
  const auto layer = softmax_cross_entropy("loss", {.ignored = 2});
  for (const TestDevice& on : test_devices()) {
    const Run made = run(*layer, on.device, noise(9, 1), {3, 1, 1, 3}, labels({2, 2, 2}, {3, 1, 1, 1}));
    CHECK(made.counts[0] == 0);
    CHECK(made.counts[1] == 0);
    CHECK(made.y == Values(3, 0.f));
    CHECK(made.dx == Values(9, 0.f));
    CHECK(made.sums == Values(2, 0.f));
  }
}

TEST_CASE("a label that no class has is refused before it is used as an index") {
  const auto layer = softmax_cross_entropy("loss", {.class_weights = {1, 2, 3}});
  for (const int32_t label : {3, -1})
    CHECK(message_of<UsageError>([&] { run(*layer, {}, noise(6, 1), {2, 1, 1, 3}, labels({0, label}, {2, 1, 1, 1})); }) ==
          ("softmax_cross_entropy 'loss' got the label " + std::to_string(label) + ": labels are 0 to 2, or -100 for a row to ignore").c_str());
}

TEST_CASE("losses: gradients by differences, devices, threads, passes in flight, for odd sizes") {
  for (int64_t classes : {1, 3, 5, 17, 33}) {
    const std::vector<Shape> shapes = {{3, 2, 1, classes}, {3, 2, 1, 1}};
    const int32_t ignored = classes > 1 ? 1 : -100;  // about one row in `classes`
    Values weights = noise(classes, 6);
    for (float& w : weights) w = std::abs(w);
    weights[0] = classes > 1 ? 0 : 2;
    for (float smoothing : {0.f, 0.3f}) {
      check_layer(*softmax_cross_entropy("loss", {smoothing, ignored}), shapes, {.below = {0, int32_t(classes)}});
      check_layer(*softmax_cross_entropy("loss", {smoothing, ignored, weights}), shapes, {.below = {0, int32_t(classes)}});
    }
  }
}

TEST_CASE("layers of text: gradients by differences, devices, threads, passes in flight, for odd sizes") {
  for (int64_t features : {1, 3, 17}) {
    check_layer(*embedding("e", {.vocabulary = 7, .features = features}), {{3, 5, 1, 1}}, {.below = {7}});
    check_layer(*embedding("e", {.vocabulary = 7, .features = features, .padding = -1}), {{1, 9, 1, 1}}, {.below = {7}});
    check_layer(*masked_mean("m"), {{5, 3, 1, features}, {5, 1, 1, 1}}, {.below = {0, 4}});
  }
}

TEST_CASE("the gradients of losses by differences") {
  const Values x = noise(6 * 5, 3);
  const Shape shape{3, 2, 1, 5};
  const Second target{noise(6 * 5, 4), shape, {shape, Storage::fp32, false}};
  const Second classes = labels({0, 4, -100, 2, 2, 1}, {3, 2, 1, 1});
  auto weighted = softmax_cross_entropy("loss", {.label_smoothing = 0.3f, .class_weights = {1, 0.5f, 2, 0, 3}});
  auto squared = mean_squared_error("loss");
  for (const auto& [layer, second] : {std::pair(weighted.get(), classes), std::pair(squared.get(), target)}) {
    const Values dx = run(*layer, {}, x, shape, second).dx;
    for (size_t i = 0; i < x.size(); ++i) {
      auto f = [&](float step) {
        Values moved = x;
        moved[i] += step;
        const Run made = run(*layer, {}, moved, shape, second);
        double sum = 0;
        for (float row : made.y) sum += double(row);
        return sum / made.counts[0];
      };
      CHECK(dx[i] == doctest::Approx((f(0x1p-6f) - f(-0x1p-6f)) * 0x1p5).epsilon(2e-4).scale(1));
    }
  }
}

TEST_CASE("mean squared error") {
  const Golden golden{"squared"};
  for (const TestDevice& on : test_devices()) {
    const Shape shape{6, 1, 1, 5};
    const Run made = run(*mean_squared_error("loss"), on.device, golden("x"), shape, {golden("target"), shape, {shape, Storage::fp32, false}});
    CHECK(made.mean() == doctest::Approx(golden("mean")[0]).epsilon(1e-6));
    check_close("gradient", made.dx, golden("dx"), 1e-6);
  }
}

TEST_CASE("masked mean: against PyTorch, and more padding changes no bit") {
  const Golden golden{"masked_mean"};
  const auto layer = masked_mean("mean");
  const std::vector<int32_t> length = integers(golden("length"));
  for (const TestDevice& on : test_devices()) {
    const Run made = run(*layer, on.device, golden("x"), {3, 4, 1, 5}, labels(length, {3, 1, 1, 1}), golden("dy"));
    check_close("y", made.y, golden("y"), 1e-6);
    check_close("dx", made.dx, golden("dx"), 1e-6);
    Values longer;
    for (size_t n = 0; n < 3; ++n) {
      const Values x = golden("x");
      longer.insert(longer.end(), x.begin() + long(n * 20), x.begin() + long(n * 20 + 20));
      longer.insert(longer.end(), 15, NAN);  // padding is not read
    }
    const Run padded = run(*layer, on.device, longer, {3, 7, 1, 5}, labels(length, {3, 1, 1, 1}), golden("dy"));
    CHECK(padded.y == made.y);
    for (size_t n = 0; n < 3; ++n)
      for (size_t i = 0; i < 35; ++i) CHECK(padded.dx[n * 35 + i] == (i < 20 ? made.dx[n * 20 + i] : 0));
  }
  const Run none = run(*layer, {}, {1, 2}, {1, 2, 1, 1}, labels({0}, {1, 1, 1, 1}), {5});
  CHECK(none.y == Values{0});
  CHECK(none.dx == Values{0, 0});
}

namespace {

struct Looked {
  Values y, dweight;
};
Looked look_up(Layer& layer, Device device, const std::vector<int32_t>& tokens, Shape shape, const Values& weight, const Values& dy) {
  const std::vector<TensorSpec> specs = {{shape, Storage::int32}};
  const Shape out = layer.output(specs).shape;
  const Needs needs = layer.prepare(device, specs);
  Guarded in(device, bits_of(tokens)), w(device, weight), y(device, Values(size_t(out.count()), NAN)), gradient(device, dy),
      dw(device, Values(weight.size(), 1)), workspace(device, Values(size_t(needs.workspace), NAN));
  const Tensor x[] = {{in.data(), shape, Storage::int32}}, dx[] = {{nullptr, shape, Storage::int32}};
  float* weights[] = {w.data()};
  float* dweights[] = {dw.data()};
  Pass p;
  p.device = device, p.x = x, p.dx = dx, p.y = {y.data(), out}, p.dy = {gradient.data(), out};
  p.weight = weights, p.dweight = dweights, p.workspace = workspace.data();
  const int64_t before = allocations;
  layer.forward(p);
  layer.backward(p);
  if (!device.gpu) CHECK(allocations == before);  // the emulator takes memory of its own
  return {y.get(), dw.get()};
}

}  // namespace

TEST_CASE("embedding: against PyTorch, accumulated, without a gradient of the padding") {
  const Golden golden{"embedding"};
  const auto layer = embedding("embedding", {.vocabulary = 9, .features = 5});
  Values expected = golden("dweight");
  for (float& v : expected) v += 1;
  for (const TestDevice& on : test_devices()) {
    const Looked made = look_up(*layer, on.device, integers(golden("tokens")), {3, 6, 1, 1}, golden("weight"), golden("dy"));
    check_close("y", made.y, golden("y"), 0);
    check_close("dweight", made.dweight, expected, 1e-6);
  }
}

TEST_CASE("embedding: the rows of a token are added in their order, on every device, for any number of positions") {
  for (int64_t n : {1, 2, 3, 31, 32, 33, 257, 1000}) {
    CAPTURE(n);
    constexpr int64_t vocabulary = 7, features = 3;
    const Random random{5, purpose("tokens"), 0};
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(random.below(uint64_t(i), vocabulary)));
    const Values dy = noise(n * features, 8);
    for (int32_t padding : {-1, 0, 3}) {
      Values sums(vocabulary * features, 0.f);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t c = 0; c < features; ++c)
          if (tokens[size_t(i)] != padding) sums[size_t(tokens[size_t(i)] * features + c)] += dy[size_t(i * features + c)];
      for (float& v : sums) v += 1;
      const auto layer = embedding("embedding", {.vocabulary = vocabulary, .features = features, .padding = padding});
      for (const TestDevice& on : test_devices())
        CHECK(look_up(*layer, on.device, tokens, {1, n, 1, 1}, noise(vocabulary * features, 9), dy).dweight == sums);
    }
  }
}

TEST_CASE("inputs and options that do not fit are refused with a sentence") {
  const TensorSpec tokens({2, 3, 1, 1}, Storage::int32), features(Shape{2, 3, 1, 4});
  const auto given = [](const std::vector<TensorSpec>& specs) { return std::span<const TensorSpec>(specs); };
  const std::vector<TensorSpec> wrong = {features}, three = {features, TensorSpec({3, 1, 1, 1}, Storage::int32)}, gradient = {features, features};
  CHECK(message_of<UsageError>([&] { embedding("e", {.vocabulary = 3, .features = 4})->output(given(wrong)); }) ==
        "embedding 'e' cannot take 1 input (2x3x1x4): it wants int32 tokens (n, length, 1, 1)");
  CHECK(message_of<UsageError>([&] { masked_mean("m")->output(given(three)); }) ==
        "masked_mean 'm' cannot take 2 inputs (2x3x1x4, 3x1x1x1 int32): it wants a sequence (n, length, 1, c), and an int32 length for each sample");
  CHECK(message_of<UsageError>([&] { mean_squared_error("l")->output(given(gradient)); }) ==
        "mean_squared_error 'l' cannot take 2 inputs (2x3x1x4, 2x3x1x4): it wants the prediction, and an fp32 target of its shape without a gradient");
  CHECK(message_of<UsageError>([] { embedding("e", {}); }) ==
        "embedding 'e': it has 0 tokens of 0 features; give at least one of each");
  CHECK(message_of<UsageError>([] { softmax_cross_entropy("l", {.class_weights = {1, -1}}); }) ==
        "softmax_cross_entropy 'l': each class weight must be a number from 0 to 1000000");
  const std::vector<TensorSpec> four = {features, tokens};
  CHECK(message_of<UsageError>([&] { softmax_cross_entropy("l", {.class_weights = {1, 1}})->prepare({}, given(four)); }) ==
        "softmax_cross_entropy 'l' has 2 class weights for 4 classes: give one weight per class");
}
