// Weights files, whose metadata say which model to make.
#include "app/weights_file.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return read_or_refuse([&] { pipecast::name_weights(pipecast::parse_safetensors(data, size, "FILE"), "FILE", "", 0, pipecast::BadValues::refuse); });
}
