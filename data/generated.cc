// Ten kinds of shape on a plain ground, for trying things without any file. Each picture has its own place, size, colours
// and noise, and either colour may be the brighter: every class has the same mean picture, so that a linear model learns
// next to nothing, while a small convolutional network learns it in a few epochs.
//
// Everything is computed in whole numbers: the same pictures on every machine.
#include "data/generated.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "engine/error.h"

namespace pipecast {
namespace {

constexpr int64_t side = 32, channels = generated_channels, kinds = generated_kinds;
constexpr int extent = 512, unit = extent / side;  // lengths across the picture, whatever its pixels, and per pixel of 32 x 32

enum Kind { disc, ring, square, frame, triangle, cross, horizontal_bars, vertical_bars, diagonal_bars, checkerboard };

// Is the point (u, v), seen from the centre, inside the shape of radius r? All lie within |u| <= r and |v| <= r.
bool inside(Kind kind, int u, int v, int r) {
  const int distance = u * u + v * v, furthest = std::max(std::abs(u), std::abs(v));
  if (furthest > r) return false;
  const int band = 2 * r / 5 + 1;  // stripes and fields: five across the shape
  const int column = (u + r) / band, row = (v + r) / band;
  switch (kind) {
    case disc: return distance <= r * r;
    case ring: return distance <= r * r && 9 * distance >= 4 * r * r;
    case square: return true;
    case frame: return 3 * furthest >= 2 * r;
    case triangle: return 2 * std::abs(u) <= v + r;
    case cross: return 3 * std::min(std::abs(u), std::abs(v)) <= r;
    case horizontal_bars: return row % 2 == 0;
    case vertical_bars: return column % 2 == 0;
    case diagonal_bars: return (u + v + 2 * r) / band % 2 == 0;
    default: return (column + row) % 2 == 0;
  }
}

}  // namespace

void draw_shape(int kind, const Random& random, int64_t side, uint8_t* picture, uint8_t* mask) {
  const int r = 6 * unit + int(random.below(0, 5 * unit));
  const int room = extent - 2 * r;  // the whole shape is in the picture
  const int x0 = r + int(random.below(1, uint32_t(room))), y0 = r + int(random.below(2, uint32_t(room)));
  const bool turned = random.below(3, 2) == 0;  // upside down: a triangle points down, diagonals fall instead of rising
  int colour[2][channels];                      // ground, shape
  for (int64_t c = 0; c < channels; ++c) {
    const int dark = 16 + int(random.below(4 + 3 * c, 80)), light = 160 + int(random.below(5 + 3 * c, 80));
    const bool bright_shape = random.below(6 + 3 * c, 2) == 0;
    colour[bright_shape][c] = light;
    colour[!bright_shape][c] = dark;
  }
  for (int64_t pixel = 0; pixel < side * side; ++pixel) {
    // The middle of the pixel.
    const int u = int((2 * (pixel % side) + 1) * extent / (2 * side)) - x0, v = int((2 * (pixel / side) + 1) * extent / (2 * side)) - y0;
    const bool of_shape = inside(Kind(kind), u, turned ? -v : v, r);
    if (mask) mask[pixel] = of_shape;
    for (int64_t c = 0; c < channels; ++c) {
      const uint32_t b = random.bits(uint64_t(16 + pixel * channels + c));
      // The sum of four bytes: nearly normal, mean 510, standard deviation 148.
      const int noise = int((b & 255) + (b >> 8 & 255) + (b >> 16 & 255) + (b >> 24)) - 510;
      picture[pixel * channels + c] = uint8_t(std::clamp(colour[of_shape][c] + noise / 5, 0, 255));
    }
  }
}

int64_t generated_size(const std::string& argument, const std::string& format) {
  int64_t size = 2000;
  if (argument.empty()) return size;
  const char* end = argument.data() + argument.size();
  const auto [stop, failure] = std::from_chars(argument.data(), end, size);
  if (failure != std::errc() || stop != end || size < 10 || size > 1'000'000)
    throw UsageError("data set " + format + ": '" + argument +
                     "' is not a number of training pictures from 10 to 1000000; write for example " + format + ":3000");
  return size;
}

const std::vector<std::string>& generated_names() {
  static const std::vector<std::string> names = {
      "disc", "ring", "square", "frame", "triangle", "cross", "horizontal bars", "vertical bars", "diagonal bars", "checkerboard"};
  return names;
}

namespace {

// Picture i is the same whatever the number of pictures.
Pictures draw_all(int64_t count, uint32_t purpose) {
  constexpr int64_t pixels = side * side * channels;
  Pictures pictures;
  pictures.pixels.resize(size_t(count * pixels));
  pictures.labels.resize(size_t(count));
  parallel(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pictures.labels[size_t(i)] = int32_t(i % kinds);
      draw_shape(int(i % kinds), {0, purpose, uint64_t(i)}, side, pictures.pixels.data() + i * pixels);
    }
  });
  return pictures;
}

}  // namespace

PictureSet generate_shapes(const std::string& train_size) {
  const int64_t size = generated_size(train_size, "generated");
  return {.name = "generated",
          .image = {1, side, side, channels},
          .classes = kinds,
          .train = draw_all(size, purpose("generated train")),
          .test = draw_all(size / 4, purpose("generated test")),
          .mean = {.5f, .5f, .5f},
          .deviation = {.31f, .31f, .31f},
          .skipped = 0,
          .class_names = generated_names()};
}

}  // namespace pipecast
