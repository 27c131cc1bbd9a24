// The prediction meter, on every device.
#include <doctest/doctest.h>

#include "pipeline/run/meter.h"
#include "tests/layer_harness.h"

using namespace pipecast;

using testing::Guarded;
using testing::Values;

TEST_CASE("the meter measures the distance between what forward and backward read") {
  for (const auto& [name, device] : testing::test_devices()) {
    CAPTURE(name);
    Values two(100), five(100), none(100), three(100);
    for (int i = 0; i < 100; ++i) two[i] = float(i + 2), five[i] = float(i + 5), none[i] = float(i), three[i] = float(i + 3);
    const Guarded predicted(device, two), read(device, five), latest(device, none), later(device, three);
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
    meter.at_backward(device, 0, read.data(), later.data());
    e = meter.take(device);
    CHECK(e.with == doctest::Approx(900));
    CHECK(e.without == doctest::Approx(900));
  }
}

TEST_CASE("of many weights an even sample is measured") {
  for (const auto& [name, device] : testing::test_devices()) {
    CAPTURE(name);
    const int64_t n = 100000;
    Values moved(size_t(n), 1.f);
    for (int64_t i = 0; i < n / 2; ++i) moved[size_t(i)] += 2.f;  // half of them by two
    const Guarded before(device, Values(size_t(n), 1.f)), after(device, moved);
    PredictionMeter meter(device, n, 1);
    meter.at_forward(device, 0, after.data(), before.data());
    meter.at_backward(device, 0, after.data(), after.data());
    PredictionError e = meter.take(device);
    CHECK(e.with == 0);
    CHECK(e.without == doctest::Approx(4 * 2048));
    CHECK(e.relative() == 0);
  }
}
