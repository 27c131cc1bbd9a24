#include "optim/groups.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/error.h"

namespace pipecast {
namespace {

// Of parameter i alone, without its matrix.
Range range_of(const Segments& segments, size_t i, const GroupOptions& options) {
  const ParameterSpec& spec = segments.specs[i];
  const int64_t end = i + 1 < segments.specs.size() ? segments.offsets[i + 1] : segments.total;
  Range range{.begin = segments.offsets[i], .n = end - segments.offsets[i]};
  range.frozen = is_named(spec.name, options.frozen);
  if (range.frozen) return range;
  if (is_named(spec.name, options.head)) range.rate = options.head_rate;
  if (!options.decays_vectors && spec.shape.size() < 2) range.decay = 0;
  return range;
}

// What can be named in the place of a name that is not there: the outermost blocks and layers.
std::vector<std::string> outermost(const Segments& all) {
  std::set<std::string> names;
  for (const ParameterSpec& spec : all.specs) names.insert(spec.name.substr(0, spec.name.find('.')));
  return {names.begin(), names.end()};
}

}  // namespace

bool is_named(const std::string& name, const std::vector<std::string>& names) {
  return std::ranges::any_of(names, [&](const std::string& beginning) {
    return name.starts_with(beginning) && (name.size() == beginning.size() || name[beginning.size()] == '.');
  });
}

std::vector<Range> ranges(const Segments& segments, const GroupOptions& options) {
  std::vector<Range> all;
  for (size_t i = 0; i < segments.specs.size(); ++i) {
    const Range next = range_of(segments, i, options);
    Range* last = all.empty() ? nullptr : &all.back();
    if (last && last->frozen == next.frozen && last->rate == next.rate && last->decay == next.decay) last->n += next.n;
    else all.push_back(next);
  }
  const std::vector<Matrix> of_all = matrices(segments);
  for (Range& range : all)
    for (Matrix matrix : of_all) {
      if (matrix.offset < range.begin || matrix.offset >= range.begin + range.n) continue;
      matrix.offset -= range.begin;
      range.matrices.push_back(matrix);
    }
  return all;
}

Buffers part_of(const Buffers& whole, const Range& range) {
  Buffers part = whole;
  part.n = range.n, part.matrices = range.matrices;
  part.w += range.begin, part.g += range.begin;
  for (float*& state : part.state)
    if (state) state += range.begin;
  if (part.predicted) part.predicted += range.begin;
  return part;
}

void check_groups(const Segments& all, const GroupOptions& options) {
  Mistakes mistakes;
  for (const std::vector<std::string>* names : {&options.frozen, &options.head})
    for (const std::string& name : *names)
      if (std::ranges::none_of(all.specs, [&](const ParameterSpec& spec) { return is_named(spec.name, {name}); }))
        mistakes.add(unknown_name("parameter, layer or block", name, outermost(all)));
  if (!(options.head_rate > 0) || !std::isfinite(options.head_rate))
    mistakes.add("the head's factor of the learning rate is " + std::to_string(options.head_rate) +
                 ": it must be above 0; to leave the head as it is, freeze it");
  if (!options.frozen.empty() &&
      std::ranges::all_of(all.specs, [&](const ParameterSpec& spec) { return is_named(spec.name, options.frozen); }))
    mistakes.add("all parameters are frozen, nothing is left to train: freeze fewer");
  mistakes.report();
}

}  // namespace pipecast
