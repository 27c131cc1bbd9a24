#include "engine/format.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace pipecast {

std::string format(const char* pattern, ...) {
  va_list arguments, again;
  va_start(arguments, pattern);
  va_copy(again, arguments);
  std::string text(size_t(std::vsnprintf(nullptr, 0, pattern, arguments)), '\0');
  std::vsnprintf(text.data(), text.size() + 1, pattern, again);
  va_end(arguments);
  va_end(again);
  return text;
}

std::string decimal(double value, int digits) { return std::isnan(value) ? "nan" : format("%.*f", digits, value); }

}  // namespace pipecast
