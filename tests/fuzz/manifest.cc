// The manifests of checkpoints.
#include "pipeline/run/checkpoint_store.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return read_or_refuse([&] {
    const pipecast::Manifest manifest = pipecast::parse_manifest(data, size, "FILE");
    if (manifest.minibatch < 0) std::abort();
    for (size_t k = 0; k < manifest.files.size(); ++k) {
      const pipecast::Manifest::File& file = manifest.files[k];
      if (file.name != "stage-" + std::to_string(k) + ".safetensors" || file.bytes < 0 || file.sha256.size() != 64) std::abort();
    }
  });
}
