// The words of a text that may hold anything.
#include <cstdlib>

#include "data/text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  size_t bytes = 0;
  pipecast::each_word({reinterpret_cast<const char*>(data), size}, [&](const std::string& word) {
    if (word.empty() || word.size() > pipecast::most_word_bytes || word.front() == '\'' || word.back() == '\'') std::abort();
    bytes += word.size();
  });
  if (bytes > size) std::abort();
  return 0;
}
