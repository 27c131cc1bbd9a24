// The list of classes of Tiny-ImageNet's val folder.
#include "data/pictures.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return read_or_refuse([&] {
    for (const auto& [name, own_class] : pipecast::parse_annotations(as_text(data, size), "FILE"))
      if (name.empty() || own_class.empty()) std::abort();
  });
}
