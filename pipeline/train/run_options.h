#pragma once
// What the epoch loop reads, beside the trainer's own options.
#include <cstdint>

namespace pipecast {

struct RunOptions {
  int64_t epochs = 10;           // passes over the training data
  int64_t eval_every = 1;        // epochs from one evaluation to the next; the pipeline drains for it
  int64_t patience = 0;          // the run ends at an evaluation this many epochs after the best one; 0: at `epochs` only
  int64_t log_every = 50;        // mini-batches from one "step" line of the metrics to the next
  int64_t checkpoint_every = 0;  // mini-batches between checkpoints; 0: at evaluations only. Evaluations always save one
  int checkpoint_keep = 2;       // the newest that are kept, beside the one with the best test accuracy
  double stop_above = 0;         // the run ends as Diverged where the mean loss since the last "step" line is above this; 0: never
  int64_t trace = 0;             // mini-batches, from the first that this process trains, that trace.json shows; needs a run's folder
};

}  // namespace pipecast
