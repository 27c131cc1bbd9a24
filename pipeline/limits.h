#pragma once
// The largest numbers that a run, a plan or a drawing is asked for. They are far above what is of use, and their products fit.
#include <cstdint>

namespace pipecast {

constexpr int most_stages = 4096, most_micro_batches = 65536, most_chunks = 64;
constexpr int64_t most_batch = 1 << 20;          // samples of a mini-batch
constexpr int64_t most_samples = INT32_MAX;        // of a data set
constexpr int64_t most_length = 1 << 20;         // tokens of a sample
constexpr int64_t most_epochs = 1000000000;
constexpr int64_t most_minibatches = 1000000000;
// From a fill of the pipeline to its drain, on all stages together. A program of so many takes some gigabytes.
constexpr int64_t most_passes = 1 << 24;

}  // namespace pipecast
