#include "data/augmentation.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/error.h"
#include "engine/random.h"

namespace pipecast {
namespace {

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

Augmentation parse_augmentation(const std::string& list) {
  Augmentation augmentation;
  if (list.empty() || list == "none") return augmentation;
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = list.find(',', begin);
    const std::string entry = list.substr(begin, end - begin), name = entry.substr(0, entry.find(':'));
    if (entry == "crop") augmentation.crop = true;
    else if (entry == "flip") augmentation.flip = true;
    else if (name == "cutout") augmentation.cutout = whole_number_of(entry, 8, 1, 4096);
    else if (entry == "none") throw UsageError("augmentation '" + list + "': 'none' excludes all others; leave it out or write it alone");
    else if (name == "crop" || name == "flip") throw UsageError("augmentation '" + shown(entry) + "': " + name + " takes no number");
    else throw UsageError(unknown_name("augmentation", name, {"crop", "flip", "cutout", "none"}));
  }
  return augmentation;
}

void cut_out(int64_t side, const Draw& draw, const Shape& shape, float* image) {
  const Random random{draw.seed, purpose("cutout"), uint64_t(draw.epoch)};
  const uint64_t element = 2 * uint64_t(draw.position);
  const int64_t height = std::min(side, shape.h), width = std::min(side, shape.w);
  const int64_t top = random.below(element, uint32_t(shape.h - height + 1)), left = random.below(element + 1, uint32_t(shape.w - width + 1));
  for (int64_t y = top; y < top + height; ++y) std::fill_n(image + (y * shape.w + left) * shape.c, width * shape.c, 0.f);
}

}  // namespace pipecast
