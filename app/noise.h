#pragma once
// Noise in the shape of a model's inputs: speed does not depend on what they show.
#include "data/dataset.h"
#include "models/graph.h"

namespace pipecast {

// `count` pictures of side x side pixels and three channels, of ten classes, to train on.
Dataset noise_pictures(int64_t count, int64_t side);

// `count` samples for a model of sequences: each sequence has `length` tokens of the vocabulary, labels are of `classes` classes.
std::shared_ptr<const Samples> noise_sequences(const Graph&, int64_t count, int64_t length, int64_t vocabulary, int64_t classes);

}  // namespace pipecast
