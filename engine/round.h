#pragma once
// Between fp32 and bf16, in the order of the device's stream. Places are aligned as Memory is.
#include "engine/device.h"

namespace pipecast {

void widen(Device, int64_t n, const Bfloat16* from, float* to);
void add_widened(Device, int64_t n, const Bfloat16* from, float* to);  // to += from
void round(Device, int64_t n, const float* from, Bfloat16* to);
// The same into workspace of floats_of(Storage::bf16, n) floats.
inline const Bfloat16* rounded(Device d, int64_t n, const float* from, float* workspace) {
  auto* to = reinterpret_cast<Bfloat16*>(workspace);
  round(d, n, from, to);
  return to;
}

}  // namespace pipecast
