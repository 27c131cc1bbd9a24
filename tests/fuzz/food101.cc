// The lists of Food-101's pictures.
#include "data/pictures.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return read_or_refuse([&] {
    for (const auto& [own_class, name] : pipecast::parse_food101_list(as_text(data, size), "FILE"))
      if (name.empty() || own_class.empty() || own_class.find('/') != own_class.npos) std::abort();
  });
}
