// Ten kinds of shape on a plain ground, for trying things without any file. Each picture has its own place, size, colours
// and noise, and either colour may be the brighter: every class has the same mean picture, so that a linear model learns
// next to nothing, while a small convolutional network learns it in a few epochs.
//
// Everything is computed in whole numbers (lengths in sixteenths of a pixel): the same pictures on every machine.
#include <charconv>
#include <cstdlib>

#include "data/pictures.h"
#include "engine/error.h"
#include "engine/random.h"

namespace pipecast {
namespace {

constexpr int64_t side = 32, channels = 3, pixels = side * side * channels;
constexpr int unit = 16;  // lengths per pixel

enum Kind { disc, ring, square, frame, triangle, cross, horizontal_bars, vertical_bars, diagonal_bars, checkerboard, kinds };

// Is the point (u, v), seen from the centre, inside the shape of radius r? All lie within |u| <= r and |v| <= r.
bool inside(Kind kind, int u, int v, int r) {
  const int distance = u * u + v * v, extent = std::max(std::abs(u), std::abs(v));
  if (extent > r) return false;
  const int band = 2 * r / 5 + 1;  // stripes and fields: five across the shape
  const int column = (u + r) / band, row = (v + r) / band;
  switch (kind) {
    case disc: return distance <= r * r;
    case ring: return distance <= r * r && 9 * distance >= 4 * r * r;
    case square: return true;
    case frame: return 3 * extent >= 2 * r;
    case triangle: return 2 * std::abs(u) <= v + r;
    case cross: return 3 * std::min(std::abs(u), std::abs(v)) <= r;
    case horizontal_bars: return row % 2 == 0;
    case vertical_bars: return column % 2 == 0;
    case diagonal_bars: return (u + v + 2 * r) / band % 2 == 0;
    default: return (column + row) % 2 == 0;
  }
}

// `random` is the picture's own stream: elements 0 to 15 choose the shape's place, size and colours, the rest is noise.
void draw(Kind kind, const Random& random, uint8_t* to) {
  const int r = 6 * unit + int(random.below(0, 5 * unit));
  const int room = int(side) * unit - 2 * r;  // the whole shape is in the picture
  const int x0 = r + int(random.below(1, uint32_t(room))), y0 = r + int(random.below(2, uint32_t(room)));
  const bool turned = random.below(3, 2) == 0;  // upside down: a triangle points down, diagonals fall instead of rising
  int colour[2][channels];                      // ground, shape
  for (int64_t c = 0; c < channels; ++c) {
    const int dark = 16 + int(random.below(4 + 3 * c, 80)), light = 160 + int(random.below(5 + 3 * c, 80));
    const bool bright_shape = random.below(6 + 3 * c, 2) == 0;
    colour[bright_shape][c] = light;
    colour[!bright_shape][c] = dark;
  }
  for (int64_t i = 0; i < pixels; ++i) {
    const int64_t c = i % channels, x = i / channels % side, y = i / channels / side;
    const int u = int(x) * unit + unit / 2 - x0, v = int(y) * unit + unit / 2 - y0;
    const uint32_t b = random.bits(uint64_t(16 + i));
    // The sum of four bytes: nearly normal, mean 510, standard deviation 148.
    const int noise = int((b & 255) + (b >> 8 & 255) + (b >> 16 & 255) + (b >> 24)) - 510;
    to[i] = uint8_t(std::clamp(colour[inside(kind, u, turned ? -v : v, r)][c] + noise / 5, 0, 255));
  }
}

// Picture i is the same whatever the number of pictures.
Pictures draw_all(int64_t count, uint32_t purpose) {
  Pictures pictures;
  pictures.pixels.resize(size_t(count * pixels));
  pictures.labels.resize(size_t(count));
  parallel(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pictures.labels[size_t(i)] = int32_t(i % kinds);
      draw(Kind(i % kinds), Random{0, purpose, uint64_t(i)}, pictures.pixels.data() + i * pixels);
    }
  });
  return pictures;
}

}  // namespace

PictureSet generate_shapes(const std::string& train_size) {
  int64_t size = 2000;
  if (!train_size.empty()) {
    const char* end = train_size.data() + train_size.size();
    const auto [stop, failure] = std::from_chars(train_size.data(), end, size);
    if (failure != std::errc() || stop != end || size < 10 || size > 1'000'000)
      throw UsageError("data set generated: '" + train_size +
                       "' is not a number of training pictures from 10 to 1000000; write for example generated:3000");
  }
  return {.name = "generated",
          .image = {1, side, side, channels},
          .classes = kinds,
          .train = draw_all(size, purpose("generated train")),
          .test = draw_all(size / 4, purpose("generated test")),
          .mean = {.5f, .5f, .5f},
          .deviation = {.31f, .31f, .31f},
          .skipped = 0,
          .class_names = {"disc", "ring", "square", "frame", "triangle", "cross", "horizontal bars", "vertical bars", "diagonal bars",
                          "checkerboard"}};
}

}  // namespace pipecast
