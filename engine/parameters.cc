#include "engine/parameters.h"

#include <algorithm>

#include "engine/launch.h"
#include "engine/random.h"

namespace pipecast {

void Segments::add(ParameterSpec spec) {
  offsets.push_back(total);
  total += aligned(spec.count());
  specs.push_back(std::move(spec));
}

int Segments::find(std::string_view name) const {
  for (size_t i = 0; i < specs.size(); ++i)
    if (specs[i].name == name) return int(i);
  return -1;
}

void initialize(const Segments& segments, uint64_t seed, float* host) {
  std::fill_n(host, segments.total, 0.f);  // the padding between segments too: sums over the whole buffer may read it
  for (size_t i = 0; i < segments.specs.size(); ++i) {
    const ParameterSpec& spec = segments.specs[i];
    const Random random{seed, purpose(spec.name), 0};
    const auto [kind, scale] = spec.initial;
    float* values = host + segments.offsets[i];
    parallel(spec.count(), 1 << 14, [=, kind = kind, scale = scale](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        if (kind == Initial::constant) values[j] = scale;
        else if (kind == Initial::normal) values[j] = scale * random.normal(uint64_t(j));
        else values[j] = scale * (2 * random.uniform(uint64_t(j)) - 1);
      }
    });
  }
}

ParameterStore::ParameterStore(Device d, Segments segments, bool second_copy) : segments_(std::move(segments)) {
  const int64_t floats = std::max<int64_t>(segments_.total, aligned(1));  // a stage without weights has copies all the same
  latest_ = Memory(d, floats);
  gradient_ = Memory(d, floats);
  if (second_copy) other_ = Memory(d, floats);
}

}  // namespace pipecast
