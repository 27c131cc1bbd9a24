#pragma once
// Noise in the shape of pictures and texts: speed does not depend on what they show.
#include "data/dataset.h"

namespace pipecast {

// `count` pictures of side x side pixels and three channels, of ten classes, to train on.
Dataset noise_pictures(int64_t count, int64_t side);

// `count` texts of so many random tokens below `vocabulary`, with a label of two classes and the next token of each as its target.
Dataset noise_texts(int64_t count, int64_t length, int64_t vocabulary);

}  // namespace pipecast
