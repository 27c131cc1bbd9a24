#pragma once
// Noise in the shape of pictures: speed does not depend on what they show.
#include "data/dataset.h"

namespace pipecast {

// `count` pictures of side x side pixels and three channels, of ten classes, to train on.
Dataset noise_pictures(int64_t count, int64_t side);

}  // namespace pipecast
