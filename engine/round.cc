#include "engine/round.h"

#include "engine/launch.h"
#include "engine/pack.h"

namespace pipecast {
namespace {

template <class From, class To>
struct Convert {
  const From* from;
  To* to;
  static constexpr int width = pack_width<Bfloat16>;
  template <int W>
  HD void at(int64_t i) const {
    const auto in = load<W>(from + i);
    Pack<To, W> out;
    each<W>([&](int k) { out.v[k] = in.v[k]; });
    store(to + i, out);
  }
};

struct AddWidened {
  const Bfloat16* from;
  float* to;
  static constexpr int width = pack_width<float>;
  template <int W>
  HD void at(int64_t i) const {
    const auto in = load<W>(from + i);
    auto out = load<W>(to + i);
    each<W>([&](int k) { out.v[k] += in.v[k]; });
    store(to + i, out);
  }
};

}  // namespace

void widen(Device d, int64_t n, const Bfloat16* from, float* to) { map(d, n, Convert<Bfloat16, float>{from, to}); }
void add_widened(Device d, int64_t n, const Bfloat16* from, float* to) { map(d, n, AddWidened{from, to}); }
void round(Device d, int64_t n, const float* from, Bfloat16* to) { map(d, n, Convert<float, Bfloat16>{from, to}); }

}  // namespace pipecast
