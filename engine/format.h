#pragma once
#include <string>

namespace pipecast {

// Like printf, into a string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

// With so many digits after the point; "nan" for a NaN, which printf gives a sign.
std::string decimal(double value, int digits);

}  // namespace pipecast
