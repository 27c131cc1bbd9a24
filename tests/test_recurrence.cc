// Layers over sequences with a state from position to position, or from one sequence to another: against differences of themselves, against
// PyTorch, on every device, and with more padding.
#include "count_allocations.h"
#include "layers/layers.h"
#include "message_of.h"

using namespace pipecast;
using namespace pipecast::testing;

namespace {

Values bits_of(const Values& integers) {
  Values values;
  for (float v : integers) values.push_back(std::bit_cast<float>(int32_t(v)));
  return values;
}

// The case of this name in tests/golden/recurrence.safetensors, on every device. Its lengths are the layer's last input.
void check_golden_sequences(const std::string& name, Layer& layer) {
  static const SafeTensors file = read_safetensors(GOLDEN_DIR "/recurrence.safetensors");
  const auto values = [&](const std::string& key) { return file.tensors.at(name + "/" + key).floats(); };
  Given given;
  Made expected;
  for (int i = 0; file.tensors.contains(name + "/x" + std::to_string(i)); ++i) {
    const std::string x = std::string("x").append(std::to_string(i));
    const std::vector<int64_t>& s = file.tensors.at(name + "/" + x).shape;
    given.specs.push_back(Shape{s[0], s[1], s[2], s[3]});
    given.x.push_back(values(x)), expected.dx.push_back(values("d" + x));
  }
  given.specs.push_back({Shape{given.specs[0].shape.n, 1, 1, 1}, Storage::int32});
  given.x.push_back(bits_of(values("length"))), expected.dx.emplace_back();
  for (const ParameterSpec& spec : layer.parameters()) {
    INFO(name, ": ", spec.name);
    CHECK(spec.shape == file.tensors.at(name + "/" + spec.name).shape);
    given.weight.push_back(values(spec.name)), expected.dweight.push_back(values("d" + spec.name));
  }
  given.dy = values("dy"), expected.y = values("y");
  for (const TestDevice& on : test_devices()) check_close(name + " on " + on.name, run(layer, on.device, given), expected, 2e-6);
}

// The first `positions` of each sample of a sequence (n, length, 1, c), or as many more of noise.
Values of_length(const Values& values, const Shape& s, int64_t positions) {
  Values all = noise(s.n * positions * s.c, 77);
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t i = 0; i < std::min(positions, s.h) * s.c; ++i) all[size_t(n * positions * s.c + i)] = values[size_t(n * s.h * s.c + i)];
  return all;
}

// More positions behind every sample's length: the same bits in all that is not padding, zeros there.
void check_padding(Layer& layer, const std::vector<Shape>& shapes, const std::vector<int32_t>& below, int64_t more) {
  const Given given = some_given(layer, shapes, 1, below);
  Given padded = given;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (below[i] > 0) continue;
    padded.specs[i].shape.h += more;
    padded.x[i] = of_length(given.x[i], shapes[i], shapes[i].h + more);
  }
  const Shape out = layer.output(given.specs).shape;
  padded.dy = of_length(given.dy, out, out.h + more);
  for (const TestDevice& on : test_devices()) {
    CAPTURE(on.name);
    Made made = run(layer, on.device, given), with_more = run(layer, on.device, padded);
    Shape large = out;
    large.h += more;
    const auto cut = [](const Values& values, Shape from, int64_t positions) { return of_length(values, from, positions); };
    CHECK(Flight::same(cut(with_more.y, large, out.h), made.y));
    for (size_t i = 0; i < shapes.size(); ++i)
      if (below[i] == 0) CHECK(Flight::same(cut(with_more.dx[i], padded.specs[i].shape, shapes[i].h), made.dx[i]));
    for (size_t i = 0; i < made.dweight.size(); ++i) CHECK(Flight::same(with_more.dweight[i], made.dweight[i]));
  }
}

}  // namespace

TEST_CASE("lstm") {
  for (const bool both : {false, true}) {
    CAPTURE(both);
    check_layer(*lstm("lstm", {.in = 3, .hidden = 5, .bidirectional = both}), {{3, 4, 1, 3}}, {.library = true});
    check_layer(*lstm("lstm", {.in = 2, .hidden = 3, .bidirectional = both}), {{5, 7, 1, 2}, {5, 1, 1, 1}},
                {.library = true, .below = {0, 8}});
    check_layer(*lstm("lstm", {.in = 1, .hidden = 17, .bidirectional = both}), {{2, 1, 1, 1}, {2, 1, 1, 1}},
                {.library = true, .below = {0, 2}});
    check_padding(*lstm("lstm", {.in = 3, .hidden = 37, .bidirectional = both}), {{9, 6, 1, 3}, {9, 1, 1, 1}}, {0, 7}, 5);
  }
  check_golden_sequences("lstm", *lstm("lstm", {.in = 3, .hidden = 19}));
  check_golden_sequences("lstm_whole", *lstm("lstm", {.in = 6, .hidden = 5}));
  check_golden_sequences("lstm_both", *lstm("lstm", {.in = 6, .hidden = 5, .bidirectional = true}));
  check_golden_sequences("lstm_both_short", *lstm("lstm", {.in = 2, .hidden = 3, .bidirectional = true}));
}

TEST_CASE("lstm: wide enough for several panels of units, the GPU's way of computing it as the host's") {
  for (const bool both : {false, true}) {
    auto layer = lstm("lstm", {.in = 5, .hidden = 133, .bidirectional = both});
    Given given = some_given(*layer, {{8, 5, 1, 5}, {8, 1, 1, 1}}, 1, {0, 6});
    for (Values& weight : given.weight)
      for (float& w : weight) w *= 0.1f;
    const Made host = run(*layer, {}, given);
    for (const TestDevice& on : test_devices()) check_close(on.name, run(*layer, on.device, given), host, 1e-5);
  }
}

TEST_CASE("lstm: samples are independent of each other and of the number of threads") {
  auto layer = lstm("lstm", {.in = 4, .hidden = 70, .bidirectional = true});
  const Given given = some_given(*layer, {{11, 9, 1, 4}, {11, 1, 1, 1}}, 1, {0, 10});
  const int before = threads();
  set_threads(1);
  const Made one = run(*layer, {}, given);
  for (const int count : {2, 3}) {
    set_threads(count);
    CHECK(Flight::same(run(*layer, {}, given).y, one.y));
  }
  set_threads(before);
}

TEST_CASE("bahdanau attention") {
  const auto layer = [](int64_t features) { return bahdanau_attention("attn", {.features = features}); };
  check_layer(*layer(5), {{3, 4, 1, 5}, {3, 3, 1, 5}, {3, 3, 1, 2}, {3, 1, 1, 1}}, {.below = {0, 0, 0, 4}});
  check_layer(*layer(67), {{2, 1, 1, 67}, {2, 2, 1, 67}, {2, 2, 1, 3}, {2, 1, 1, 1}, {2, 1, 1, 1}}, {.below = {0, 0, 0, 3, 2}});
  check_padding(*layer(70), {{7, 5, 1, 70}, {7, 5, 1, 70}, {7, 5, 1, 19}, {7, 1, 1, 1}, {7, 1, 1, 1}}, {0, 0, 0, 6, 6}, 4);
  check_golden_sequences("bahdanau", *layer(9));
  const auto one = [](std::vector<TensorSpec> specs) {
    return message_of<UsageError>([&] { bahdanau_attention("attn", {.features = 3})->output(specs); });
  };
  CHECK(one(specs_of({{2, 4, 1, 3}})) ==
        "bahdanau_attention 'attn' cannot take 1 input (2x4x1x3): it wants queries (n, q, 1, 3), keys (n, k, 1, 3), values (n, k, 1, c), "
        "an int32 "
        "number of keys for each sample, and perhaps one of queries");
  CHECK_THROWS_AS(layer(0), UsageError);
}

TEST_CASE("lstm: what it cannot take") {
  const auto layer = lstm("rnn", {.in = 3, .hidden = 2});
  CHECK(message_of<UsageError>([&] {
          layer->output(specs_of({{2, 5, 1, 4}}));
        }) ==
        "lstm 'rnn' cannot take 1 input (2x5x1x4): it wants a sequence (n, length, 1, 3), and perhaps an int32 length for each sample");
  CHECK_THROWS_AS(layer->output(specs_of({{2, 5, 2, 3}})), UsageError);
  CHECK_THROWS_AS(layer->output(specs_of({{2, 5, 1, 3}, {2, 1, 1, 1}})), UsageError);
  CHECK(message_of<UsageError>([] { lstm("rnn", {.in = 3, .hidden = 0}); }) ==
        "lstm 'rnn': 3 inputs and 0 hidden units; give at least one of each");
}
