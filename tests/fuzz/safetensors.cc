#include "engine/files/safetensors.h"

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return read_or_refuse([&] {
    const pipecast::SafeTensors file = pipecast::parse_safetensors(data, size, "FILE");
    for (const auto& [name, tensor] : file.tensors) {
      if (tensor.is_float() && int64_t(tensor.floats().size()) != tensor.count()) std::abort();
      if (tensor.is_number() && tensor.count() > 0) tensor.whole_number();
    }
  });
}
