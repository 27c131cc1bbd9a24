// The prediction meter, on the host and on the emulated GPU.
#include <doctest/doctest.h>

#include <vector>

#include "engine/memory.h"
#include "pipeline/run/meter.h"

using namespace pipecast;

namespace {

std::vector<Device> devices() {
  std::vector<Device> list = {Device{}};
#ifdef PIPECAST_EMULATOR
  static const Memory scratch(Device{}, device_scratch_floats);
  list.push_back(Device{.gpu = true, .scratch = scratch.data()});
#endif
  return list;
}

}  // namespace

TEST_CASE("the meter measures the distance between what forward and backward read") {
  for (Device device : devices()) {
    std::vector<float> predicted(100), latest(100), later(100);
    for (int i = 0; i < 100; ++i) predicted[i] = float(i + 2), latest[i] = float(i), later[i] = float(i + 3);
    PredictionMeter meter(device, 100, 2);
    meter.at_forward(device, 0, later.data(), later.data());  // another pass in flight
    meter.at_forward(device, 1, predicted.data(), latest.data());
    meter.at_backward(device, 1, later.data(), later.data());
    PredictionError e = meter.take(device);
    CHECK(e.with == doctest::Approx(100));
    CHECK(e.without == doctest::Approx(900));
    CHECK(e.relative() == doctest::Approx(1. / 3));
    CHECK(meter.take(device).without == 0);

    // A backward that does not read the latest weights: 100 weights, read 2 then and 5 now, the latest 0 and 3.
    meter.at_forward(device, 0, predicted.data(), latest.data());
    std::vector<float> read(100);
    for (int i = 0; i < 100; ++i) read[i] = float(i + 5);
    meter.at_backward(device, 0, read.data(), later.data());
    e = meter.take(device);
    CHECK(e.with == doctest::Approx(900));
    CHECK(e.without == doctest::Approx(900));
  }
}

TEST_CASE("of many weights an even sample is measured") {
  for (Device device : devices()) {
    const int64_t n = 100000;
    std::vector<float> before(n, 1.f), after(n, 1.f);
    for (int64_t i = 0; i < n; ++i) after[i] += i < n / 2 ? 2.f : 0.f;  // half of them moved by two
    PredictionMeter meter(device, n, 1);
    meter.at_forward(device, 0, after.data(), before.data());
    meter.at_backward(device, 0, after.data(), after.data());
    PredictionError e = meter.take(device);
    CHECK(e.with == 0);
    CHECK(e.without == doctest::Approx(4 * 2048));
    CHECK(e.relative() == 0);
  }
}
