#include "data/augmentation.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "engine/error.h"
#include "engine/random.h"

namespace pipecast {
namespace {

const std::vector<std::string> names = {"random-resized-crop", "colour-jitter", "hue-jitter", "crop", "flip",
                                        "random-erasing",      "cutout",        "mixup",      "none"};

// The number after the colon of "name:number", or the usual one where there is no colon.
double number_of(const std::string& entry, double usual, double least, double most) {
  const size_t colon = entry.find(':');
  if (colon == std::string::npos) return usual;
  double value = 0;
  const char* end = entry.data() + entry.size();
  const auto [stop, error] = std::from_chars(entry.data() + colon + 1, end, value);
  if (error != std::errc() || stop != end || !(value >= least && value <= most)) {
    char bounds[64];
    std::snprintf(bounds, sizeof bounds, "%g to %g", least, most);
    throw UsageError("augmentation '" + shown(entry) + "': what follows the colon must be a number from " + bounds);
  }
  return value;
}

int64_t whole_number_of(const std::string& entry, double usual, double least, double most) {
  const double value = number_of(entry, usual, least, most);
  if (value != std::floor(value)) throw UsageError("augmentation '" + shown(entry) + "': what follows the colon must be a whole number");
  return int64_t(value);
}

}  // namespace

const std::vector<std::string>& augmentation_names() { return names; }

Augmentation parse_augmentation(const std::string& list) {
  Augmentation augmentation;
  if (list.empty() || list == "none") return augmentation;
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = list.find(',', begin);
    const std::string entry = list.substr(begin, end - begin), name = entry.substr(0, entry.find(':'));
    if (entry == "crop") augmentation.crop = true;
    else if (entry == "flip") augmentation.flip = true;
    else if (name == "random-resized-crop") augmentation.resized_crop = float(number_of(entry, .08, 1e-4, 1));
    else if (name == "colour-jitter") augmentation.colours = float(number_of(entry, .4, 0, 1));
    else if (name == "hue-jitter") augmentation.hue = float(number_of(entry, .1, 0, .5));
    else if (name == "random-erasing") augmentation.erasing = float(number_of(entry, .5, 0, 1));
    else if (name == "cutout") augmentation.cutout = whole_number_of(entry, 8, 1, 4096);
    else if (name == "mixup") augmentation.mixup = float(number_of(entry, .2, .001, 100));
    else if (entry == "none") throw UsageError("augmentation '" + list + "': 'none' excludes all others; leave it out or write it alone");
    else if (name == "crop" || name == "flip") throw UsageError("augmentation '" + shown(entry) + "': " + name + " takes no number");
    else throw UsageError(unknown_name("augmentation", name, names));
  }
  return augmentation;
}

namespace {

// Random numbers for one sample: up to `numbers` of them.
struct Numbers {
  Random random;
  uint64_t first;
  Numbers(uint32_t purpose, const Draw& draw, uint64_t numbers)
      : random{draw.seed, purpose, uint64_t(draw.epoch)}, first(numbers * uint64_t(draw.position)) {}
  double between(uint64_t k, double least, double most) const { return least + (most - least) * double(random.uniform(first + k)); }
  double normal(uint64_t k) const { return double(random.normal(first + k)); }
  int64_t below(uint64_t k, int64_t n) const { return random.below(first + k, uint32_t(n)); }
};

constexpr uint64_t tries = 10, per_try = 4;

// A rectangle at a random place of height x width pixels: the share of the area is uniform, and so is the logarithm of its width / height.
// Nothing where attempt `k` does not fit.
std::optional<Box> random_box(const Numbers& numbers, uint64_t k, double least_area, double most_area, double least_ratio,
                              double most_ratio, int64_t height, int64_t width) {
  const uint64_t at = k * per_try;
  const double area = double(height * width) * numbers.between(at, least_area, most_area);
  const double ratio = std::exp(numbers.between(at + 1, std::log(least_ratio), std::log(most_ratio)));
  const auto w = int64_t(std::nearbyint(std::sqrt(area * ratio))), h = int64_t(std::nearbyint(std::sqrt(area / ratio)));
  if (w < 1 || h < 1 || w > width || h > height) return {};
  return Box{numbers.below(at + 2, height - h + 1), numbers.below(at + 3, width - w + 1), h, w};
}

// A byte between one of a picture without the quality and one with it, at `factor`, or beyond.
uint8_t blended(int without, int with, float factor) {
  return uint8_t(std::clamp(float(without) + factor * float(with - without), 0.f, 255.f));
}

// The grey of a colour, as television has it, in 65536ths.
int grey(const uint8_t* colour) { return (19595 * colour[0] + 38470 * colour[1] + 7471 * colour[2] + 32768) >> 16; }

// Sets a rectangle of an image to 0.
void fill(const Box& box, const Shape& shape, float* image) {
  for (int64_t y = box.top; y < box.top + box.height; ++y)
    std::fill_n(image + (y * shape.w + box.left) * shape.c, box.width * shape.c, 0.f);
}

}  // namespace

Box random_box(float least_area, const Draw& draw, int64_t height, int64_t width) {
  constexpr double least = 3. / 4, most = 4. / 3;
  const Numbers numbers(purpose("random-resized crop"), draw, tries * per_try);
  for (uint64_t k = 0; k < tries; ++k)
    if (const auto box = random_box(numbers, k, least_area, 1, least, most, height, width)) return *box;
  const double ratio = double(width) / double(height);
  const int64_t h = ratio < least ? int64_t(std::nearbyint(double(width) / least)) : height;
  const int64_t w = ratio > most ? int64_t(std::nearbyint(double(height) * most)) : width;
  return {(height - h) / 2, (width - w) / 2, h, w};
}

// Of two numbers from the gamma distribution, X and Y, X / (X + Y) is from Beta. Each is made as Marsaglia and Tsang do it ("A simple
// method for generating gamma variables", 2000), for alpha + 1, times U^(1 / alpha); its logarithm, as it may be very small.
float mixing_share(float alpha, const Draw& draw) {
  constexpr uint64_t per_number = 2 * tries + 1;  // one try in twenty fails at most
  const Numbers numbers(purpose("mixup"), draw, 2 * per_number);
  const auto logarithm = [&](uint64_t first) {
    const double d = double(alpha) + 2. / 3, c = 1 / std::sqrt(9 * d);
    double cube = 1;
    for (uint64_t k = 0; k < tries; ++k) {
      const double x = numbers.normal(first + 2 * k), u = 1 - numbers.between(first + 2 * k + 1, 0, 1), root = 1 + c * x;
      if (root <= 0) continue;
      cube = root * root * root;
      if (std::log(u) < x * x / 2 + d * (1 - cube + std::log(cube))) break;
    }
    return std::log(d * cube) + std::log(1 - numbers.between(first + 2 * tries, 0, 1)) / double(alpha);
  };
  return float(1 / (1 + std::exp(logarithm(per_number) - logarithm(0))));
}

void change_brightness(float factor, const Shape& shape, uint8_t* picture) {
  for (int64_t i = 0; i < shape.count(); ++i) picture[i] = blended(0, picture[i], factor);
}

void change_contrast(float factor, const Shape& shape, uint8_t* picture) {
  const int64_t pixels = shape.h * shape.w;
  int64_t sum = 0;
  for (int64_t i = 0; i < pixels; ++i) sum += shape.c == 3 ? grey(picture + 3 * i) : picture[i];
  const int mean = int(double(sum) / double(pixels) + .5);
  for (int64_t i = 0; i < shape.count(); ++i) picture[i] = blended(mean, picture[i], factor);
}

void change_saturation(float factor, const Shape& shape, uint8_t* picture) {
  if (shape.c != 3) return;
  for (uint8_t* colour = picture; colour < picture + shape.count(); colour += 3) {
    const int without = grey(colour);
    for (int c = 0; c < 3; ++c) colour[c] = blended(without, colour[c], factor);
  }
}

void change_hue(float turns, const Shape& shape, uint8_t* picture) {
  if (shape.c != 3) return;
  for (uint8_t* colour = picture; colour < picture + shape.count(); colour += 3) {
    const float red = colour[0], green = colour[1], blue = colour[2];
    const float most = std::max({red, green, blue}), range = most - std::min({red, green, blue});
    if (range == 0) continue;
    // In sixths of the circle from red.
    const float sixths = most == red ? (green - blue) / range : most == green ? 2 + (blue - red) / range : 4 + (red - green) / range;
    // Each channel falls from `most` by the range where the hue is more than two sixths from its own.
    for (int c = 0; c < 3; ++c) {
      float apart = std::fmod(std::abs(sixths + 6 * turns - 2 * float(c)), 6.f);
      apart = std::min(apart, 6 - apart);
      colour[c] = uint8_t(most - range * std::clamp(apart - 1, 0.f, 1.f) + .5f);
    }
  }
}

void change_colours(float colours, float hue, const Draw& draw, const Shape& shape, uint8_t* picture) {
  const Numbers numbers(purpose("colour jitter"), draw, 8);
  int order[] = {0, 1, 2, 3};
  for (uint64_t k = 3; k > 0; --k) std::swap(order[k], order[numbers.below(3 + k, int64_t(k) + 1)]);
  for (int change : order) {
    const auto factor = float(numbers.between(uint64_t(change), 1 - colours, 1 + colours));
    if (change == 0) change_brightness(factor, shape, picture);
    if (change == 1) change_contrast(factor, shape, picture);
    if (change == 2) change_saturation(factor, shape, picture);
    if (change == 3 && hue > 0) change_hue(float(numbers.between(3, -hue, hue)), shape, picture);
  }
}

void erase(float probability, const Draw& draw, const Shape& shape, float* image) {
  const Numbers numbers(purpose("random erasing"), draw, tries * per_try + 1);
  if (numbers.between(tries * per_try, 0, 1) >= double(probability)) return;
  for (uint64_t k = 0; k < tries; ++k) {
    const auto box = random_box(numbers, k, .02, .33, 1 / 3.3, 1 / .3, shape.h, shape.w);
    if (!box || box->height == shape.h || box->width == shape.w) continue;
    fill(*box, shape, image);
    return;
  }
}

void cut_out(int64_t side, const Draw& draw, const Shape& shape, float* image) {
  const Numbers numbers(purpose("cutout"), draw, 2);
  const int64_t height = std::min(side, shape.h), width = std::min(side, shape.w);
  fill({numbers.below(0, shape.h - height + 1), numbers.below(1, shape.w - width + 1), height, width}, shape, image);
}

}  // namespace pipecast
