// Interleaved 1F1B (Narayanan et al., "Efficient large-scale language model training on GPU clusters", SC 2021): every stage owns
// V chunks of the model, so that a pass goes round the stages V times and the pipeline fills and drains in a V-th of the time, for
// V times the messages. Micro-batches go in groups of D, as many as there are stages: a group through chunk 0, then through
// chunk 1, ..., then the next group. Synchronous, with one update for the mini-batch.
#include <algorithm>

#include "engine/error.h"
#include "pipeline/program.h"

namespace pipecast {
namespace {

Program one_minibatch(const Setting& setting, int stage) {
  const int stages = setting.stages, chunks = setting.chunks, last = stages - 1;
  const int passes = setting.micro_batches * chunks;
  const int warm_up = std::min(passes, 2 * (last - stage) + (chunks - 1) * stages);
  Program program;
  auto add = [&](Operation operation, int micro, int chunk) {
    program.push_back({.operation = operation, .micro = micro, .chunk = chunk});
  };
  // The n-th pass: its micro-batch, and its chunk counted in the direction of travel.
  auto micro_of = [&](int n) { return n / (stages * chunks) * stages + n % stages; };
  auto chunk_of = [&](int n) { return n / stages % chunks; };
  auto forward = [&](int n) {
    const int micro = micro_of(n), chunk = chunk_of(n);
    add(Operation::receive_activation, micro, chunk);
    add(Operation::forward, micro, chunk);
    if (stage < last || chunk < chunks - 1) add(Operation::send_activation, micro, chunk);
  };
  auto backward = [&](int n) {
    const int micro = micro_of(n), chunk = chunks - 1 - chunk_of(n);
    if (stage < last || chunk < chunks - 1) add(Operation::receive_gradient, micro, chunk);
    add(Operation::backward, micro, chunk);
    if (stage > 0 || chunk > 0) add(Operation::send_gradient, micro, chunk);
  };
  for (int n = 0; n < warm_up; ++n) forward(n);
  for (int n = 0; n < passes; ++n) {
    if (warm_up + n < passes) forward(warm_up + n);
    backward(n);
  }
  add(Operation::step, setting.micro_batches - 1, 0);
  return program;
}

}  // namespace

Program interleaved_program(const Setting& setting, int stage) {
  if (setting.micro_batches % setting.stages != 0)
    throw UsageError("interleaved sends its micro-batches in groups of as many as there are stages: --micro-batches must be a "
                     "multiple of " + std::to_string(setting.stages) + ", not " + std::to_string(setting.micro_batches));
  return one_by_one(setting, stage, one_minibatch);
}

}  // namespace pipecast
