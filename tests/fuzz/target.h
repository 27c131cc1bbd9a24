#pragma once
// A fuzz target is a file with one function, LLVMFuzzerTestOneInput, that gives any bytes to one reader. libFuzzer calls it, or driver.cc
// where there is none.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/error.h"

// Runs the reader: it reads the bytes, or refuses them with one sentence that a terminal can show. Whatever else it throws ends the target.
template <class F>
int read_or_refuse(F reader) {
  try {
    reader();
  } catch (const pipecast::UsageError& error) {
    const std::string_view sentence = error.what();
    bool good = !sentence.empty() && sentence.size() < 2000;
    for (char c : sentence) good = good && c >= ' ' && c <= '~';
    if (!good) {
      std::fprintf(stderr, "no sentence: %s\n", error.what());
      std::abort();
    }
  }
  return 0;
}

inline std::string_view as_text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
