#include "optim/look_ahead.h"

#include "engine/error.h"

namespace pipecast {
namespace {

struct NamedMode {
  const char* name;
  LookAheadMode mode;
};
constexpr NamedMode modes[] = {{"paper", LookAheadMode::paper},
                               {"released", LookAheadMode::released},
                               {"exact", LookAheadMode::exact},
                               {"decayed", LookAheadMode::decayed}};

}  // namespace

std::vector<std::string> look_ahead_modes() {
  std::vector<std::string> names;
  for (const NamedMode& row : modes) names.push_back(row.name);
  return names;
}

LookAheadMode look_ahead_mode(const std::string& name) {
  for (const NamedMode& row : modes)
    if (row.name == name) return row.mode;
  throw UsageError(unknown_name("look-ahead", name, look_ahead_modes()));
}

std::string to_string(LookAheadMode mode) {
  for (const NamedMode& row : modes)
    if (row.mode == mode) return row.name;
  return {};
}

}  // namespace pipecast
