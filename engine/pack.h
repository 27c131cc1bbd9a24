#pragma once
// Neighbouring elements that move between memory and registers at once. A GPU needs some 25 kB of reads under way on each of its processors
// to keep its memory busy, and its threads have at most 8 kB of them where each reads a float and waits: so a kernel that reads one or two
// values for each that it writes is written for W of them, of 16 bytes together (see map() in launch.h). The host takes W = 1 and leaves
// it to the compiler.
#include <cstdint>
#include <utility>

#include "engine/host_device.h"

namespace pipecast {

// W is a power of two, and the address a multiple of what they take.
template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T v[W];
};

template <int W, class T>
HD Pack<T, W> load(const T* from) {
  return *reinterpret_cast<const Pack<T, W>*>(from);
}
template <int W, class T>
HD void store(T* to, const Pack<T, W>& pack) {
  *reinterpret_cast<Pack<T, W>*>(to) = pack;
}

// f(0), f(1), ... f(W - 1). Not a loop: what is indexed by the counter of a loop is an array to g++, which then does not vectorize.
template <int W, class F>
HD void each(const F& f) {
  [&]<int... k>(std::integer_sequence<int, k...>) { (f(k), ...); }
  (std::make_integer_sequence<int, W>());
}

// Elements of T in 16 bytes.
template <class T>
inline constexpr int pack_width = 16 / int(sizeof(T));

}  // namespace pipecast
