#include "data/resize.h"

#include <algorithm>
#include <cmath>

namespace pipecast {
namespace {

constexpr int fraction_bits = 22;  // of weights; the sum of 255 times all weights of a pixel stays below 2^31

// What some pixels of a row are made of: pixel k of the elements first[k] ... first[k] + taps - 1, weighed.
struct Filter {
  int64_t taps = 0;
  std::vector<int64_t> first;
  std::vector<int32_t> weights;  // pixel x taps
};

// Pixels begin ... begin + count - 1 of `from` elements scaled to `to`. The weights of a pixel are a triangle around its middle, as wide as
// two pixels of the larger size of the two, and sum up to 1.
Filter filter(int64_t from, int64_t to, int64_t begin, int64_t count) {
  const double scale = double(from) / double(to), reach = std::max(scale, 1.);
  Filter filter;
  filter.taps = std::min(int64_t(std::ceil(reach)) * 2 + 1, from);
  filter.weights.resize(size_t(count * filter.taps));
  std::vector<double> weights(static_cast<size_t>(filter.taps));
  for (int64_t k = 0; k < count; ++k) {
    const double middle = (double(begin + k) + .5) * scale;
    const int64_t least = std::max<int64_t>(0, int64_t(middle - reach + .5)), most = std::min(from, int64_t(middle + reach + .5));
    const int64_t first = std::min(least, from - filter.taps);
    double sum = 0;
    for (int64_t t = 0; t < filter.taps; ++t) {
      const int64_t at = first + t;
      const double weight = 1 - std::abs((double(at) - middle + .5) / reach);
      sum += weights[size_t(t)] = at >= least && at < most ? std::max(weight, 0.) : 0;
    }
    filter.first.push_back(first);
    for (int64_t t = 0; t < filter.taps; ++t)
      filter.weights[size_t(k * filter.taps + t)] = int32_t(std::lround(weights[size_t(t)] / sum * (1 << fraction_bits)));
  }
  return filter;
}

uint8_t rounded(int32_t sum) { return uint8_t(std::clamp(sum >> fraction_bits, 0, 255)); }
constexpr int32_t half = 1 << (fraction_bits - 1);

// A row of `channels` interleaved, at the filter's pixels.
template <int channels>
void scale_row(const Filter& filter, const uint8_t* row, uint8_t* to) {
  for (size_t k = 0; k < filter.first.size(); ++k, to += channels) {
    const uint8_t* from = row + filter.first[k] * channels;
    const int32_t* weights = filter.weights.data() + int64_t(k) * filter.taps;
    int32_t sums[channels];
    for (int c = 0; c < channels; ++c) sums[c] = half;
    for (int64_t t = 0; t < filter.taps; ++t)
      for (int c = 0; c < channels; ++c) sums[c] += weights[t] * from[t * channels + c];
    for (int c = 0; c < channels; ++c) to[c] = rounded(sums[c]);
  }
}

}  // namespace

void resize(const uint8_t* picture, const Shape& shape, const Box& from, int64_t height, int64_t width, const Box& window,
            std::vector<uint8_t>& to) {
  const Filter across = filter(from.width, width, window.left, window.width), down = filter(from.height, height, window.top, window.height);
  const int64_t begin = down.first.front(), rows = down.first.back() + down.taps - begin, values = window.width * shape.c;
  std::vector<uint8_t> narrow(size_t(rows * values));  // all rows that are needed, scaled
  for (int64_t y = 0; y < rows; ++y) {
    const uint8_t* row = picture + ((from.top + begin + y) * shape.w + from.left) * shape.c;
    uint8_t* out = narrow.data() + y * values;
    if (shape.c == 3) scale_row<3>(across, row, out);
    else
      for (int64_t k = 0; k < window.width; ++k)
        for (int64_t c = 0; c < shape.c; ++c) {
          int32_t sum = half;
          for (int64_t t = 0; t < across.taps; ++t)
            sum += across.weights[size_t(k * across.taps + t)] * row[(across.first[size_t(k)] + t) * shape.c + c];
          out[k * shape.c + c] = rounded(sum);
        }
  }
  to.resize(size_t(window.height * values));
  std::vector<int32_t> sums(static_cast<size_t>(values));
  for (int64_t y = 0; y < window.height; ++y) {
    std::fill(sums.begin(), sums.end(), half);
    for (int64_t t = 0; t < down.taps; ++t) {
      const uint8_t* row = narrow.data() + (down.first[size_t(y)] - begin + t) * values;
      const int32_t weight = down.weights[size_t(y * down.taps + t)];
      for (int64_t j = 0; j < values; ++j) sums[size_t(j)] += weight * row[j];
    }
    for (int64_t j = 0; j < values; ++j) to[size_t(y * values + j)] = rounded(sums[size_t(j)]);
  }
}

void resize_and_crop(const uint8_t* picture, const Shape& shape, int64_t shorter, int64_t side, std::vector<uint8_t>& to) {
  const int64_t least = std::min(shape.h, shape.w), height = shorter * shape.h / least, width = shorter * shape.w / least;
  // Halves go to the even number, as Python's round has it.
  const auto middle = [side](int64_t size) { return int64_t(std::nearbyint(double(size - side) / 2)); };
  resize(picture, shape, {0, 0, shape.h, shape.w}, height, width, {middle(height), middle(width), side, side}, to);
}

}  // namespace pipecast
