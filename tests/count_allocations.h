#pragma once
// operator new that counts in testing::allocations, for one file of a test with the layer harness. Not inlined: g++ would take the malloc
// of one for a mistake in the other.
#include <cstdlib>

#include "layer_harness.h"

[[gnu::noinline]] void* operator new(size_t bytes) {
  ++pipecast::testing::allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
