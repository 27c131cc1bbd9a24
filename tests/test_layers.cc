// Every layer against differences of itself, against PyTorch, and on every device against the host.
#include "count_allocations.h"
#include "layers/layers.h"

using namespace pipecast;
using namespace pipecast::testing;

TEST_CASE("relu") {
  check_layer(*relu("relu"), {{2, 3, 3, 17}}, {.kinks = true});
  check_golden("relu", *relu("relu"));
}

TEST_CASE("leaky relu") {
  check_layer(*leaky_relu("relu", 0.1f), {{2, 3, 3, 17}}, {.kinks = true});
  check_golden("leaky_relu", *leaky_relu("relu", 0.1f));
  CHECK_THROWS_AS(leaky_relu("relu", -0.1f), UsageError);
}

TEST_CASE("add") {
  check_layer(*add("add"), {{2, 3, 3, 5}, {2, 3, 3, 5}});
  check_layer(*add("add"), {{1, 3, 1, 17}, {1, 3, 1, 17}, {1, 3, 1, 17}, {1, 3, 1, 17}});
  check_golden("add", *add("add"));
}

TEST_CASE("concatenation") {
  check_layer(*concatenation("concatenation"), {{2, 3, 1, 33}, {2, 3, 1, 1}, {2, 3, 1, 17}});
  check_golden("concatenation", *concatenation("concatenation"));
}

TEST_CASE("batch norm") {
  for (int64_t channels : {1, 3, 5, 17, 33}) {
    for (bool relu : {false, true}) {
      Shape shape{3, 3, 2, channels};
      check_layer(*batch_norm("bn", {.channels = channels, .relu = relu}), {shape}, {.kinks = relu});
      check_layer(*batch_norm("bn", {.channels = channels, .relu = relu, .add = true}), {shape, shape}, {.kinks = relu});
    }
  }
  check_golden("batch_norm", *batch_norm("bn", {.channels = 5}));
  check_golden("batch_norm_options", *batch_norm("bn", {.channels = 5, .epsilon = 1e-2f, .momentum = 0.3f}));
  check_golden("batch_norm_relu", *batch_norm("bn", {.channels = 5, .relu = true}));
  check_golden("batch_norm_add", *batch_norm("bn", {.channels = 5, .add = true}));
  check_golden("batch_norm_add_relu", *batch_norm("bn", {.channels = 5, .relu = true, .add = true}));
  check_layer(*batch_norm("bn", {.channels = 5, .relu = true, .ceiling = 0.75f}), {{3, 3, 2, 5}}, {.kinks = true});
  const Shape two{3, 3, 2, 5};
  check_layer(*batch_norm("bn", {.channels = 5, .relu = true, .add = true, .ceiling = 0.75f}), {two, two}, {.kinks = true});
  CHECK(!batch_norm("bn", {.channels = 5, .relu = true, .ceiling = 6})->normalises());  // who reads it does not know the ceiling
  check_golden("batch_norm_ceiling", *batch_norm("bn", {.channels = 5, .relu = true, .ceiling = 0.75f}));
  check_golden("batch_norm_evaluation", *batch_norm("bn", {.channels = 5, .relu = true, .add = true}), false);
}

TEST_CASE("batch norm keeps its digits where the mean is far above the deviation") {
  auto layer = batch_norm("bn", {.channels = 1});
  const Given plain = some_given(*layer, {{4, 16, 16, 1}});
  Given far = plain;
  for (size_t i = 0; i < far.x[0].size(); ++i) far.x[0][i] = std::round(far.x[0][i] * 0x1p8f) * 0x1p-8f + 4096;
  Given near = far;
  for (float& v : near.x[0]) v -= 4096;
  for (const TestDevice& on : test_devices()) {
    Made a = run(*layer, on.device, far), b = run(*layer, on.device, near);
    check_close(on.name + " y", a.y, b.y, 1e-3);  // the mean itself is rounded to a multiple of 2^-11
    check_close(on.name + " variance", a.statistics[1], b.statistics[1], 1e-5);
  }
}

// Its variance is lost in rounding, and must not come out negative.
TEST_CASE("batch norm of a channel whose first value is far from all others stays finite") {
  auto layer = batch_norm("bn", {.channels = 1});
  Given given = some_given(*layer, {{8, 128, 128, 1}});
  std::fill(given.x[0].begin() + 1, given.x[0].end(), 1007.3f);
  for (const TestDevice& on : test_devices()) {
    const Made made = run(*layer, on.device, given);
    for (const Values* values : {&made.y, &made.dx[0], &made.dweight[0], &made.statistics[1]})
      CHECK(std::all_of(values->begin(), values->end(), [](float v) { return std::isfinite(v); }));
  }
}

TEST_CASE("batch norm of a single row") {
  auto layer = batch_norm("bn", {.channels = 3});
  const Given given = some_given(*layer, {{1, 1, 1, 3}});
  const Made made = run(*layer, {}, given);
  for (size_t c = 0; c < 3; ++c) {
    CHECK(made.y[c] == given.weight[1][c]);
    CHECK(made.dx[0][c] == 0);
    CHECK(made.statistics[0][c] == doctest::Approx(0.9 * double(given.statistics[0][c]) + 0.1 * double(given.x[0][c])));
    CHECK(made.statistics[1][c] == doctest::Approx(0.9 * double(given.statistics[1][c])));
  }
  CHECK(made.statistics[2][0] == 4);
}

TEST_CASE("instance norm") {
  for (int64_t channels : {1, 3, 17, 32}) {
    const Shape shape{2, 4, 3, channels};
    check_layer(*instance_norm("norm", {.channels = channels}), {shape});
    check_layer(*instance_norm("norm", {.channels = channels, .affine = true, .slope = 0.3f}), {shape}, {.kinks = true});
  }
  check_golden("instance_norm", *instance_norm("norm", {.channels = 5}));
  check_golden("instance_norm", *instance_norm("norm", {.channels = 5}), false);
  check_golden("instance_norm_affine", *instance_norm("norm", {.channels = 5, .epsilon = 1e-2f, .affine = true}));
  check_golden("instance_norm_leaky", *instance_norm("norm", {.channels = 5, .epsilon = 1e-2f, .affine = true, .slope = 0.2f}));
}

// The samples of a batch do not meet: each comes out as it does alone.
TEST_CASE("instance norm of a batch is that of each sample") {
  auto layer = instance_norm("norm", {.channels = 5, .slope = 0.1f});
  const Given both = some_given(*layer, {{2, 9, 7, 5}});
  Given first = both;
  first.specs = specs_of({{1, 9, 7, 5}});
  first.x[0].resize(9 * 7 * 5), first.dy.resize(9 * 7 * 5);
  for (const TestDevice& on : test_devices()) {
    const Made of_both = run(*layer, on.device, both), alone = run(*layer, on.device, first);
    CHECK(std::equal(alone.y.begin(), alone.y.end(), of_both.y.begin()));
    CHECK(std::equal(alone.dx[0].begin(), alone.dx[0].end(), of_both.dx[0].begin()));
  }
}

TEST_CASE("transposed convolution") {
  auto check = [](TransposedConvolutionOptions options, Shape x) {
    check_layer(*transposed_convolution("up", options), {x}, {.library = true});
  };
  check({.in = 5, .out = 3, .kernel = 2, .stride = 2}, {2, 3, 4, 5});
  check({.in = 3, .out = 17, .kernel = 3, .stride = 2, .padding = 1, .output_padding = 1, .bias = false}, {1, 3, 4, 3});
  auto golden = [](const char* name, TransposedConvolutionOptions options) { check_golden(name, *transposed_convolution("up", options)); };
  golden("transposed_convolution", {.in = 5, .out = 3, .kernel = 2, .stride = 2});
  golden("transposed_convolution_padding", {.in = 3, .out = 4, .kernel = 3, .stride = 2, .padding = 1, .output_padding = 1, .bias = false});
  golden("transposed_convolution_stride_one", {.in = 3, .out = 2, .kernel = 4, .padding = 1});
  CHECK_THROWS_AS(transposed_convolution("up", {.in = 3, .out = 4, .kernel = 3, .output_padding = 1}), UsageError);
  CHECK_THROWS_WITH_AS(
      transposed_convolution("up", {.in = 4, .out = 8})->output(specs_of({{2, 5, 5, 3}})),
      "transposed_convolution 'up' cannot take 1 input (2x5x5x3): it wants one of 4 channels, of which padding leaves a pixel", UsageError);
}

TEST_CASE("convolution") {
  auto check = [](ConvolutionOptions options, Shape x) { check_layer(*convolution("conv", options), {x}, {.library = true}); };
  check({.in = 3, .out = 5, .kernel = 3, .padding = 1}, {2, 4, 3, 3});
  check({.in = 5, .out = 17, .kernel = 1, .stride = 2, .bias = true}, {2, 3, 4, 5});
  check({.in = 1, .out = 3, .kernel = 5, .stride = 2, .padding = 2, .bias = true}, {1, 7, 6, 1});
  check({.in = 6, .out = 4, .kernel = 3, .padding = 2, .dilation = 2, .groups = 2}, {1, 5, 4, 6});
  check({.in = 3, .out = 4, .kernel = 1, .kernel_w = 7, .padding = 0, .padding_w = 3}, {2, 3, 4, 3});
  check({.in = 3, .out = 4, .kernel = 3, .kernel_w = 1, .stride = 2, .padding = 1, .padding_w = 0, .bias = true}, {2, 5, 4, 3});
  check({.in = 5, .out = 5, .kernel = 3, .padding = 1, .groups = 5}, {2, 4, 3, 5});
  auto golden = [](const char* name, ConvolutionOptions options) { check_golden(name, *convolution("conv", options)); };
  golden("convolution", {.in = 3, .out = 5, .kernel = 3, .padding = 1});
  golden("convolution_stride", {.in = 3, .out = 4, .kernel = 3, .stride = 2, .padding = 1});
  golden("convolution_dilation", {.in = 3, .out = 2, .kernel = 3, .padding = 2, .dilation = 2});
  golden("convolution_groups", {.in = 6, .out = 4, .kernel = 3, .padding = 1, .groups = 2});
  golden("convolution_depthwise", {.in = 4, .out = 4, .kernel = 3, .groups = 4});
  golden("convolution_bias", {.in = 5, .out = 3, .kernel = 1, .stride = 2, .bias = true});
  golden("convolution_wide", {.in = 3, .out = 4, .kernel = 1, .kernel_w = 7, .padding = 0, .padding_w = 3});
  golden("convolution_high", {.in = 3, .out = 4, .kernel = 3, .kernel_w = 1, .stride = 2, .padding = 1, .padding_w = 0});
  golden("convolution_depthwise_stride", {.in = 19, .out = 19, .kernel = 3, .stride = 2, .padding = 1, .groups = 19});
  golden("convolution_seven", {.in = 3, .out = 2, .kernel = 7, .stride = 2, .padding = 3, .bias = true});
}

TEST_CASE("a convolution keeps a plan for each batch size, and asks for one that it lacks") {
  auto layer = convolution("conv", {.in = 3, .out = 5, .kernel = 3, .padding = 1});
  const Given full = some_given(*layer, {{4, 5, 5, 3}}), rest = some_given(*layer, {{1, 5, 5, 3}}, 50);
  const Made expected = run(*layer, {}, full);
  Flight first(*layer, {}, full), second(*layer, {}, rest);
  first.forward();
  second.forward();
  second.backward();
  first.backward();
  CHECK(same(first.made(), expected));
  const Tensor x{nullptr, {2, 5, 5, 3}};
  Pass pass;
  pass.x = {&x, 1};
  CHECK_THROWS_WITH_AS(layer->forward(pass), "convolution 'conv' has no plan for 2x5x5x3; call prepare() with that shape first", Error);
}

TEST_CASE("linear") {
  check_layer(*linear("fc", 17, 33), {{5, 1, 1, 17}}, {.library = true});
  check_layer(*linear("fc", 3, 1, false), {{1, 1, 1, 3}}, {.library = true});
  check_golden("linear", *linear("fc", 7, 5));
  check_golden("linear_plain", *linear("fc", 7, 5, false));
  check_golden("linear_image", *linear("fc", 30, 4));
}

TEST_CASE("max pool") {
  check_layer(*max_pool("pool", {}), {{2, 5, 4, 5}}, {.kinks = true});
  check_layer(*max_pool("pool", {.kernel = 3, .stride = 2, .padding = 1}), {{1, 5, 4, 17}}, {.kinks = true});
  check_golden("max_pool", *max_pool("pool", {}));
  check_golden("max_pool_overlapping", *max_pool("pool", {.kernel = 3, .stride = 2, .padding = 1}));
  check_golden("max_pool_ties", *max_pool("pool", {.kernel = 3, .stride = 1, .padding = 1}));
  check_layer(*max_pool("pool", {.kernel = 3, .stride = 2, .ceil = true}), {{1, 6, 4, 5}}, {.kinks = true});
  check_golden("max_pool_ceil", *max_pool("pool", {.kernel = 3, .stride = 2, .ceil = true}));
  check_golden("max_pool_ceil_padding", *max_pool("pool", {.kernel = 2, .stride = 2, .padding = 1, .ceil = true}));
  check_golden("max_pool_broken", *max_pool("pool", {.kernel = 3, .stride = 2, .padding = 1}));
}

TEST_CASE("average pool") {
  check_layer(*average_pool("pool", {}), {{2, 5, 4, 5}});
  check_layer(*average_pool("pool", {.kernel = 3, .stride = 2, .padding = 1}), {{1, 5, 4, 17}});
  check_layer(*global_average_pool("pool"), {{3, 3, 5, 33}});
  check_golden("average_pool", *average_pool("pool", {}));
  check_golden("average_pool_overlapping", *average_pool("pool", {.kernel = 3, .stride = 2, .padding = 1}));
  check_golden("global_average_pool", *global_average_pool("pool"));
  check_layer(*average_pool("pool", {.kernel = 3, .stride = 2, .padding = 1, .count_padding = false}), {{1, 5, 4, 17}});
  check_golden("average_pool_inside", *average_pool("pool", {.kernel = 3, .stride = 2, .padding = 1, .count_padding = false}));
}

TEST_CASE("adaptive average pool") {
  check_layer(*adaptive_average_pool("pool", 3), {{2, 7, 5, 5}});
  check_layer(*adaptive_average_pool("pool", 3), {{1, 2, 3, 17}});
  check_golden("adaptive_average_pool", *adaptive_average_pool("pool", 3));
  check_golden("adaptive_average_pool_up", *adaptive_average_pool("pool", 3));
  CHECK_THROWS_AS(adaptive_average_pool("pool", 0), UsageError);
}

TEST_CASE("subsample") {
  check_layer(*subsample("s", {.stride = 2, .offset = 1}), {{2, 5, 4, 5}});
  check_layer(*subsample("s", {.stride = 3, .offset = 1}), {{1, 4, 5, 16}});
  check_layer(*subsample("s", {.stride = 2}), {{1, 1, 3, 4}});
  check_golden("subsample", *subsample("s", {.stride = 2, .offset = 1}));
  check_golden("subsample_even", *subsample("s", {.stride = 2, .offset = 1}));
  CHECK_THROWS_AS(subsample("s", {.stride = 2, .offset = 2}), UsageError);
}

TEST_CASE("upsample") {
  check_layer(*upsample("up", {}), {{2, 3, 2, 5}});
  check_layer(*upsample("up", {.factor = 3, .h = 11, .w = 7}), {{1, 3, 2, 17}});
  check_golden("upsample", *upsample("up", {}));
  check_golden("upsample_three", *upsample("up", {.factor = 3}));
  check_golden("upsample_fill", *upsample("up", {.factor = 2, .h = 6, .w = 7}));
  CHECK_THROWS_AS(upsample("up", {.factor = 0}), UsageError);
  CHECK_THROWS_WITH_AS(upsample("up", {.h = 5})->output(specs_of({{2, 3, 2, 5}})),
                       "upsample 'up' cannot take 1 input (2x3x2x5): it wants one whose sides times 2 are not above the output's",
                       UsageError);
}

TEST_CASE("flatten") {
  check_layer(*flatten("flat"), {{2, 3, 2, 5}});
  check_golden("flatten", *flatten("flat"));
}

TEST_CASE("dropout") {
  const Shape shape{3, 5, 5, 17};
  check_layer(*dropout("drop", 0.3f), {shape});
  for (const TestDevice& on : test_devices()) {
    for (float rate : {0.f, 0.3f}) {
      auto layer = dropout("drop", rate);
      const Given given = some_given(*layer, {shape});
      CHECK(Flight::same(evaluate(*layer, on.device, given).y, given.x[0]));
      const Made made = run(*layer, on.device, given);
      int64_t dropped = 0;
      for (size_t i = 0; i < made.y.size(); ++i) {
        const bool drops = Random{7, purpose("drop"), 3}.uniform(i) < rate;
        dropped += drops;
        CHECK(made.y[i] == doctest::Approx(drops ? 0 : given.x[0][i] / (1 - rate)));
        CHECK(made.dx[0][i] == doctest::Approx(drops ? 0 : given.dy[i] / (1 - rate)));
      }
      CHECK(std::abs(double(dropped) / double(made.y.size()) - double(rate)) < 0.05);
    }
  }
}

TEST_CASE("channel dropout: whole channels of a sample, the same in backward") {
  const Shape shape{3, 5, 4, 17};
  check_layer(*channel_dropout("drop", 0.3f), {shape});
  for (const TestDevice& on : test_devices()) {
    for (float rate : {0.f, 0.3f}) {
      auto layer = channel_dropout("drop", rate);
      const Given given = some_given(*layer, {shape});
      CHECK(Flight::same(evaluate(*layer, on.device, given).y, given.x[0]));
      const Made made = run(*layer, on.device, given);
      for (size_t i = 0; i < made.y.size(); ++i) {
        const size_t channel = i / (20 * 17) * 17 + i % 17;
        const float factor = Random{7, purpose("drop"), 3}.uniform(channel) < rate ? 0 : 1 / (1 - rate);
        CHECK(made.y[i] == doctest::Approx(factor * given.x[0][i]));
        CHECK(made.dx[0][i] == doctest::Approx(factor * given.dy[i]));
      }
    }
  }
  CHECK_THROWS_AS(channel_dropout("drop", 1.f), UsageError);
}

// Loss and its gradient on one device: rows x classes, totals beginning at 10 and 20.
struct Loss {
  Values loss, hits, dlogits, totals;
};
static Loss loss_of(Device device, const Values& logits, const std::vector<int32_t>& target, float smoothing) {
  const int64_t rows = int64_t(target.size()), classes = int64_t(logits.size()) / rows;
  Values target_bits(target.size());
  std::transform(target.begin(), target.end(), target_bits.begin(), [](int32_t t) { return std::bit_cast<float>(t); });
  const Values nothing(target.size(), NAN);
  Guarded in(device, logits), t(device, target_bits), loss(device, nothing), hits(device, nothing), totals(device, {10, 20}),
      dlogits(device, Values(logits.size(), NAN)), scale(device, {1 / float(rows)});
  const auto layer = softmax_cross_entropy("loss", {.label_smoothing = smoothing});
  const Tensor x[] = {{in.data(), {rows, 1, 1, classes}}, {t.data(), {rows, 1, 1, 1}, Storage::int32}};
  const Tensor dx[] = {{dlogits.data(), x[0].shape}, {nullptr, x[1].shape, Storage::int32}};
  Pass p;
  p.device = device, p.x = x, p.y = {loss.data(), {rows, 1, 1, 1}}, p.workspace = hits.data(), p.sums = totals.data();
  p.scale = scale.data();
  layer->forward(p);
  p.dx = dx;
  layer->backward(p);
  return {loss.get(), hits.get(), dlogits.get(), totals.get()};
}

TEST_CASE("softmax cross-entropy") {
  const SafeTensors file = read_safetensors(GOLDEN_DIR "/layers.safetensors");
  const std::vector<std::pair<std::string, float>> cases = {
      {"loss", 0.f}, {"loss_smoothing", 0.1f}, {"loss_large", 0.1f}, {"loss_ties", 0.f}};
  for (const auto& [name, smoothing] : cases) {
    auto values = [&](const char* key) { return file.tensors.at(name + "/" + key).floats(); };
    const Values hits = values("hits"), losses = values("loss"), targets = values("target");
    const std::vector<int32_t> target(targets.begin(), targets.end());
    for (const TestDevice& on : test_devices()) {
      const Loss made = loss_of(on.device, values("logits"), target, smoothing);
      check_close(name + " loss", made.loss, losses, 1e-6);
      check_close(name + " dlogits", made.dlogits, values("dlogits"), 1e-6);
      CHECK(made.hits == hits);
      float sum = 10, count = 20;
      for (size_t r = 0; r < hits.size(); ++r) sum += losses[r], count += hits[r];
      check_close(name + " totals", made.totals, {sum, count}, 1e-6);
    }
  }
}

TEST_CASE("the loss by differences, for odd numbers of classes") {
  for (int64_t classes : {1, 3, 5, 17, 33}) {
    const int64_t rows = 4;
    Values logits = noise(rows * classes, 5);
    std::vector<int32_t> target;
    for (int64_t r = 0; r < rows; ++r) target.push_back(int32_t((r * 7 + 2) % classes));
    const Values dlogits = loss_of({}, logits, target, 0.2f).dlogits;
    for (size_t i = 0; i < logits.size(); ++i) {
      auto f = [&](float step) {
        Values moved = logits;
        moved[i] += step;
        double sum = 0;
        for (float l : loss_of({}, moved, target, 0.2f).loss) sum += double(l);
        return sum / double(rows);
      };
      CHECK(dlogits[i] == doctest::Approx((f(0x1p-6f) - f(-0x1p-6f)) * 0x1p5).epsilon(1e-4).scale(1));
    }
  }
}

TEST_CASE("a logit that is not a number shows in the loss and hits nothing") {
  for (const TestDevice& on : test_devices()) {
    const Loss made = loss_of(on.device, {1, NAN, 0, 5, 1, 2}, {1, 0}, 0);
    CHECK(std::isnan(made.loss[0]));
    CHECK(made.hits == Values{0, 1});
  }
}

TEST_CASE("of equal logits the first is the guess") {
  for (const TestDevice& on : test_devices()) CHECK(loss_of(on.device, {2, 2, 1, 2, 2, 1, 1, 2, 2}, {0, 1, 1}, 0).hits == Values{1, 0, 1});
}

TEST_CASE("wrong shapes and options are refused in one sentence") {
  const std::vector<Shape> one = {{2, 5, 5, 3}}, two = {{2, 5, 5, 3}, {2, 5, 4, 3}};
  auto refuses = [](const Layer& layer, const std::vector<Shape>& x, const char* message) {
    CHECK_THROWS_WITH_AS(layer.output(specs_of(x)), message, UsageError);
  };
  refuses(*relu("r"), two, "relu 'r' cannot take 2 inputs (2x5x5x3, 2x5x4x3): it wants one");
  refuses(*dropout("d", 0.5f), two, "dropout 'd' cannot take 2 inputs (2x5x5x3, 2x5x4x3): it wants one");
  refuses(*add("a"), two, "add 'a' cannot take 2 inputs (2x5x5x3, 2x5x4x3): it wants two or more of one shape");
  refuses(*concatenation("c"), two,
          "concatenation 'c' cannot take 2 inputs (2x5x5x3, 2x5x4x3): it wants two or more that differ in their channels only");
  refuses(*batch_norm("bn1", {.channels = 4}), one, "batch_norm 'bn1' cannot take 1 input (2x5x5x3): it wants one of 4 channels");
  refuses(*batch_norm("bn2", {.channels = 3, .add = true}), two,
          "batch_norm 'bn2' cannot take 2 inputs (2x5x5x3, 2x5x4x3): it wants two of one shape, with 3 channels");
  refuses(*linear("fc", 74, 10), one, "linear 'fc' cannot take 1 input (2x5x5x3): it wants one of 74 channels, or features per sample");
  refuses(*convolution("conv", {.in = 4, .out = 8}), one,
          "convolution 'conv' cannot take 1 input (2x5x5x3): it wants one of 4 channels and at least 1 pixels in height and width");
  refuses(*convolution("conv", {.in = 3, .out = 8, .kernel = 7}), one,
          "convolution 'conv' cannot take 1 input (2x5x5x3): it wants one of 3 channels and at least 7 pixels in height and width");
  refuses(*max_pool("pool", {.kernel = 8, .padding = 1}), one,
          "max_pool 'pool' cannot take 1 input (2x5x5x3): it wants one of at least 6 pixels in height and width");
  CHECK_THROWS_AS(dropout("d", 1.f), UsageError);
  CHECK_THROWS_AS(dropout("d", -0.1f), UsageError);
  CHECK_THROWS_AS(dropout("d", NAN), UsageError);
  CHECK_THROWS_AS(convolution("conv", {.in = 3, .out = 4, .groups = 2}), UsageError);
  CHECK_THROWS_AS(convolution("conv", {.in = 3, .out = 4, .stride = 0}), UsageError);
  CHECK_THROWS_AS(max_pool("pool", {.kernel = 2, .padding = 2}), UsageError);
  CHECK_THROWS_AS(average_pool("pool", {.kernel = 0}), UsageError);
  CHECK_THROWS_AS(linear("fc", 0, 4), UsageError);
  CHECK_THROWS_AS(batch_norm("bn", {.channels = 0}), UsageError);
  CHECK_THROWS_AS(batch_norm("bn", {.channels = 2, .relu = true, .ceiling = 0}), UsageError);
  CHECK_THROWS_AS(convolution("conv", {.in = 3, .out = 4, .kernel_w = 0}), UsageError);
  CHECK_THROWS_AS(convolution("conv", {.in = 3, .out = 4, .padding_w = -1}), UsageError);
}

TEST_CASE("parameters begin as PyTorch's and torchvision's") {
  auto initial = [](const Layer& layer, size_t i) { return layer.parameters().at(i).initial; };
  const auto conv = convolution("conv", {.in = 6, .out = 4, .kernel = 3, .groups = 2, .bias = true});
  CHECK(initial(*conv, 0).kind == Initial::normal);
  CHECK(initial(*conv, 0).scale == doctest::Approx(std::sqrt(2. / (3 * 3 * 4))));
  CHECK(initial(*conv, 1).kind == Initial::uniform);
  CHECK(initial(*conv, 1).scale == doctest::Approx(1 / std::sqrt(3. * 3 * 3)));
  const auto fc = linear("fc", 16, 3);
  for (size_t i : {0, 1}) {
    CHECK(initial(*fc, i).kind == Initial::uniform);
    CHECK(initial(*fc, i).scale == doctest::Approx(0.25));
  }
  const auto bn = batch_norm("bn", {.channels = 3});
  CHECK(initial(*bn, 0).scale == 1);
  CHECK(initial(*bn, 1).scale == 0);
  CHECK(bn->statistics()[1].initial.scale == 1);
  CHECK(bn->statistics()[2].counter);
  CHECK(bn->statistics()[2].count() == 1);
}
