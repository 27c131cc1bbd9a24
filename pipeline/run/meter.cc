#include "pipeline/run/meter.h"

#include <cmath>

#include "engine/launch.h"

namespace pipecast {
namespace {

constexpr int64_t sample_size = 4096;

// kept (2 x sample): evenly spaced elements of the two copies.
struct TakeSample {
  const float *read, *latest;
  float* kept;
  int64_t n, sample;
  HD void operator()(int64_t i) const {
    int64_t element = i * n / sample;
    kept[i] = read[element];
    kept[sample + i] = latest[element];
  }
};

// sums += (squared distance of the weights read then and now, squared distance of the latest then and now).
struct Distance {
  const float *kept, *read, *latest;
  float* sums;
  int64_t n, sample;
  HD Sums<2> operator()(int64_t i, int64_t) const {
    int64_t element = i * n / sample;
    float with = kept[i] - read[element], without = kept[sample + i] - latest[element];
    return {{with * with, without * without}};
  }
  HD void done(int64_t, Sums<2> s) const { sums[0] += s.v[0], sums[1] += s.v[1]; }
};

}  // namespace

double PredictionError::relative() const { return without > 0 ? std::sqrt(with / without) : 0; }

PredictionMeter::PredictionMeter(Device device, int64_t n, int slots)
    : n_(n), sample_(std::min(n, sample_size)), kept_(device, slots * 2 * sample_), sums_(device, 2) {}

void PredictionMeter::at_forward(Device device, int slot, const float* read, const float* latest) {
  map(device, sample_, TakeSample{read, latest, kept_.data() + slot * 2 * sample_, n_, sample_});
}

void PredictionMeter::at_backward(Device device, int slot, const float* read, const float* latest) {
  columns<2>(device, sample_, 1, Distance{kept_.data() + slot * 2 * sample_, read, latest, sums_.data(), n_, sample_});
}

PredictionError PredictionMeter::take(Device device) {
  float sums[2];
  copy(device, sums, sums_.data(), sizeof sums);
  synchronize(device);
  fill_zero(device, sums_.data(), sizeof sums);
  return {sums[0], sums[1]};
}

}  // namespace pipecast
