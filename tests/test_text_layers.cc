// The layers of transformers against differences of themselves, against PyTorch, and on every device against the host; padding changes no
// bit.
#include "count_allocations.h"
#include "layers/layers.h"
#include "message_of.h"

using namespace pipecast;
using namespace pipecast::testing;

namespace {

void golden(const std::string& name, std::unique_ptr<Layer> layer) { check_golden(name, *layer, true, "text_layers"); }

Values integers(const std::vector<int32_t>& values) {
  Values floats;
  for (int32_t v : values) floats.push_back(std::bit_cast<float>(v));
  return floats;
}

// Sequences of `positions` rows as ones of `padded`, filled up with `filling`.
Values pad(const Values& x, const Shape& shape, int64_t padded, float filling) {
  Values wide(size_t(shape.n * padded * shape.c), filling);
  for (int64_t n = 0; n < shape.n; ++n)
    std::copy_n(x.begin() + n * shape.h * shape.c, shape.h * shape.c, wide.begin() + n * padded * shape.c);
  return wide;
}

// 0 from each sample's length on.
void clear_behind(Values& x, const Shape& shape, const std::vector<int32_t>& lengths) {
  for (int64_t n = 0; n < shape.n; ++n)
    std::fill(x.begin() + (n * shape.h + lengths[size_t(n)]) * shape.c, x.begin() + (n + 1) * shape.h * shape.c, 0.f);
}

// The same sequences, padded further: every bit as before, and behind it zeros in dx, and where `zeros`, in y. What the padding holds is
// not read where `reads_none`.
void check_padding(Layer& layer, const std::vector<Shape>& shapes, const std::vector<int32_t>& lengths, bool reads_none) {
  std::vector<int32_t> below;
  for (const Shape& s : shapes) below.push_back(s.c == 1 && s.h == 1 ? 1 : 0);
  Given tight = some_given(layer, shapes, 5, below);
  const Shape y = layer.output(tight.specs).shape;
  clear_behind(tight.dy, y, lengths);
  for (size_t i = 0; i < shapes.size(); ++i)
    if (below[i]) tight.x[i] = integers(lengths);
  for (const int64_t padded : {y.h + 37, y.h + 1, y.h + 200}) {
    Given wide = tight;
    for (size_t i = 0; i < shapes.size(); ++i) {
      if (below[i]) continue;
      wide.x[i] = pad(tight.x[i], shapes[i], padded, reads_none ? NAN : 0.5f);
      wide.specs[i].shape.h = padded;
    }
    wide.dy = pad(tight.dy, y, padded, 0);
    for (const TestDevice& on : test_devices()) {
      if (on.name == "emulator" && padded != y.h + 37) continue;  // it is slow
      Made a = run(layer, on.device, tight), b = run(layer, on.device, wide);
      for (size_t i = 0; i < shapes.size(); ++i)
        if (!below[i]) a.dx[i] = pad(a.dx[i], shapes[i], padded, 0);
      INFO(on.name, " ", padded);
      CHECK(std::equal(a.dx.begin(), a.dx.end(), b.dx.begin(), b.dx.end()));
      CHECK(std::equal(a.dweight.begin(), a.dweight.end(), b.dweight.begin(), b.dweight.end()));
      if (reads_none) a.y = pad(a.y, y, padded, 0);
      for (int64_t n = 0; n < y.n && !reads_none; ++n)
        CHECK(std::equal(a.y.begin() + n * y.h * y.c, a.y.begin() + (n + 1) * y.h * y.c, b.y.begin() + n * padded * y.c));
      if (reads_none) CHECK(a.y == b.y);
    }
  }
}

}  // namespace

TEST_CASE("tanh and gelu") {
  check_layer(*tanh("tanh"), {{2, 3, 1, 17}});
  check_layer(*gelu("gelu"), {{2, 3, 1, 17}});
  check_layer(*gelu("gelu", GeluForm::tanh), {{2, 3, 1, 17}});
  golden("tanh", tanh("tanh"));
  golden("gelu", gelu("gelu"));
  golden("gelu_tanh", gelu("gelu", GeluForm::tanh));
}

TEST_CASE("gelu and tanh of large values are their limits") {
  for (const std::unique_ptr<Layer>& layer : {gelu("gelu"), gelu("gelu", GeluForm::tanh), tanh("tanh")}) {
    Given given = some_given(*layer, {{1, 1, 1, 4}});
    given.x[0] = {-1e4f, 1e4f, -INFINITY, NAN};
    const bool is_tanh = std::string(layer->kind()) == "tanh";
    const Made made = run(*layer, {}, given);
    CHECK(std::abs(made.y[0] - (is_tanh ? -1.f : 0.f)) < 1e-30f);
    CHECK(made.y[1] == (is_tanh ? 1.f : 1e4f));
    CHECK(std::isnan(made.y[3]));
    CHECK(std::isnan(made.dx[0][3]));
  }
}

TEST_CASE("layer norm") {
  for (const int64_t channels : {1, 5, 33}) {
    const Shape shape{2, 35, 1, channels};
    if (channels > 1) check_layer(*layer_norm("ln", {.channels = channels}), {{2, 3, 1, channels}});
    check_layer(*layer_norm("ln", {.channels = channels, .add = true}), {{2, 3, 2, channels}, {2, 3, 2, channels}});
    check_padding(*layer_norm("ln", {.channels = channels}), {shape}, {35, 7}, false);
  }
  golden("layer_norm", layer_norm("ln", {.channels = 21}));
  golden("layer_norm_add", layer_norm("ln", {.channels = 17, .epsilon = 1e-2f, .add = true}));
}

TEST_CASE("layer norm keeps its digits where the mean is far above the deviation") {
  auto layer = layer_norm("ln", {.channels = 64});
  Given far = some_given(*layer, {{3, 1, 1, 64}});
  for (float& v : far.x[0]) v = std::round(v * 0x1p8f) * 0x1p-8f + 4096;
  Given near = far;
  for (float& v : near.x[0]) v -= 4096;
  for (const TestDevice& on : test_devices()) check_close(on.name, run(*layer, on.device, far).y, run(*layer, on.device, near).y, 1e-3);
}

TEST_CASE("positions, the first position, transposed weights") {
  const Shape shape{3, 4, 1, 5};
  const PositionOptions learned{.most = 7, .features = 5, .first = 2}, constant{.form = PositionForm::constant, .features = 5};
  check_layer(*positions("p", learned), {shape});
  check_layer(*positions("p", constant), {shape});
  check_layer(*positions("p", {.form = PositionForm::sinusoidal, .most = 4, .features = 5}), {shape});
  check_layer(*first_position("first"), {shape});
  check_layer(*linear("fc", {.in = 5, .out = 17, .transposed = true}), {shape}, {.library = true});
  check_padding(*positions("p", {.most = 300, .features = 5}), {shape}, {4, 1, 2}, false);
  check_padding(*positions("p", constant), {shape}, {4, 1, 2}, false);
  for (const bool transposed : {false, true})
    check_padding(*linear("fc", {.in = 5, .out = 17, .transposed = transposed}), {shape}, {4, 1, 2}, false);
  golden("positions", positions("p", {.most = 9, .features = 5, .first = 2}));
  golden("positions_constant", positions("p", constant));
  golden("positions_sinusoidal", positions("p", {.form = PositionForm::sinusoidal, .most = 7, .features = 8, .first = 1}));
  golden("first_position", first_position("first"));
  golden("linear_transposed", linear("fc", {.in = 7, .out = 5, .transposed = true}));
}

TEST_CASE("dropout of sequences: its share is dropped, evenly over the channels, and padding changes no mask") {
  check_layer(*dropout("d", 0.25f), {{2, 3, 1, 7}});
  check_padding(*dropout("d", 0.25f), {{3, 4, 1, 7}}, {4, 1, 2}, false);
  auto layer = dropout("d", 0.25f);
  Given given = some_given(*layer, {{4, 500, 1, 9}});
  std::fill(given.x[0].begin(), given.x[0].end(), 3.f);
  for (const TestDevice& on : test_devices()) {
    const Made made = run(*layer, on.device, given);
    for (size_t c = 0; c < 9; ++c) {
      int64_t dropped = 0;
      for (size_t r = 0; r < 2000; ++r) dropped += made.y[r * 9 + c] == 0;
      CHECK(std::abs(dropped - 500) < 80);  // four standard deviations
    }
    CHECK(std::all_of(made.y.begin(), made.y.end(), [](float v) { return v == 0 || v == 4; }));
  }
}

TEST_CASE("attention") {
  const Options library{.library = true, .below = {0, 0, 0, 6, 4}};
  const std::vector<Shape> alike = {{3, 5, 1, 6}, {3, 5, 1, 6}, {3, 5, 1, 6}, {3, 1, 1, 1}};
  check_layer(*attention("a", {.features = 6, .heads = 2}), alike, library);
  check_layer(*attention("a", {.features = 6, .heads = 3, .causal = true}), alike, library);
  check_layer(*attention("a", {.features = 6, .heads = 2, .dropout = 0.3f}), alike, library);
  check_layer(*attention("a", {.features = 34, .heads = 2, .causal = true, .dropout = 0.5f}), {{2, 11, 1, 102}, {2, 1, 1, 1}},
              {.library = true, .below = {0, 12}});
  check_layer(*attention("a", {.features = 3}), {{4, 3, 1, 3}, {4, 5, 1, 3}, {4, 5, 1, 3}, {4, 1, 1, 1}, {4, 1, 1, 1}}, library);
  golden("attention", attention("a", {.features = 6, .heads = 2}));
  golden("attention_causal", attention("a", {.features = 6, .heads = 2, .causal = true}));
  golden("attention_packed", attention("a", {.features = 6, .heads = 3, .causal = true}));
  golden("attention_across", attention("a", {.features = 5}));
  golden("attention_blocks", attention("a", {.features = 2, .causal = true}));
}

TEST_CASE("attention over more padding: the same bits, nothing behind a length is read") {
  for (const bool causal : {false, true}) {
    auto layer = attention("a", {.features = 6, .heads = 2, .causal = causal, .dropout = 0.3f});
    check_padding(*layer, {{4, 70, 1, 18}, {4, 1, 1, 1}}, {70, 64, 1, 0}, true);
    check_padding(*layer, {{2, 9, 1, 6}, {2, 9, 1, 6}, {2, 9, 1, 6}, {2, 1, 1, 1}}, {9, 4}, true);
  }
}

TEST_CASE("attention: large scores do not overflow; dropout drops its share and evaluation none") {
  auto layer = attention("a", {.features = 64, .heads = 1, .dropout = 0.25f});
  Given given = some_given(*layer, {{1, 60, 1, 192}, {1, 1, 1, 1}}, 1, {0, 1});
  given.x[1] = integers({60});
  for (int64_t t = 0; t < 60; ++t)
    for (int64_t c = 0; c < 192; ++c) {
      // The same score for every pair; the values are 1.
      float& v = given.x[0][size_t(t * 192 + c)];
      v = c < 128 ? 40 : 1;
    }
  for (const TestDevice& on : test_devices()) {
    for (const float v : evaluate(*layer, on.device, given).y) CHECK(v == doctest::Approx(1).epsilon(1e-5));
    const Made made = run(*layer, on.device, given);
    double mean = 0;
    for (size_t t = 0; t < 60; ++t) mean += double(made.y[t * 64]) / 60;
    CHECK(mean == doctest::Approx(1).epsilon(0.05));
    CHECK(made.y[0] != made.y[64]);
    CHECK(std::all_of(made.dx[0].begin(), made.dx[0].end(), [](float v) { return std::isfinite(v); }));
  }
}

TEST_CASE("shapes and options that do not fit have their sentence") {
  CHECK(message_of<UsageError>([] { attention("a", {.features = 6, .heads = 4}); }) ==
        "attention 'a': 6 features do not divide into 4 heads; give a multiple of the heads");
  const std::vector<TensorSpec> wrong = {Shape{2, 3, 1, 6}, {Shape{2, 1, 1, 1}, Storage::int32}};
  CHECK(message_of<UsageError>([&] { attention("a", {.features = 6})->output(wrong); }) ==
        "attention 'a' cannot take 2 inputs (2x3x1x6, 2x1x1x1 int32): it wants queries, keys and values (n, length, 1, 6), or one value of "
        "all "
        "three, an int32 length for each sample, and one for its queries where they are not the keys' own positions");
  const std::vector<TensorSpec> longer = {Shape{2, 6, 1, 5}};
  CHECK(message_of<UsageError>([&] { positions("p", {.most = 7, .features = 5, .first = 2})->output(longer); }) ==
        "positions 'p' got a sequence of 6 positions and has 5: shorten the sequences, or make the model for longer ones");
  CHECK_THROWS_AS(layer_norm("ln", {.channels = 0}), UsageError);
  CHECK_THROWS_AS(layer_norm("ln", {.channels = 3, .add = true})->output(longer), UsageError);
  CHECK_THROWS_AS(first_position("f")->output(std::vector<TensorSpec>{Shape{2, 3, 2, 5}}), UsageError);
}
