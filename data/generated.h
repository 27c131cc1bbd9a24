#pragma once
// What the data sets that are drawn on the spot share: the shapes.
#include <cstdint>
#include <string>
#include <vector>

#include "data/pictures.h"
#include "engine/random.h"

namespace pipecast {

constexpr int64_t generated_channels = 3, generated_kinds = 10;

// Draws a shape of this kind, 0 to 9, as a picture of side x side pixels. `random` is the picture's own stream: elements 0 to 15 choose the
// shape's place, size and colours, which do not depend on `side`, the rest is noise. mask, where it is not null: a 1 for each pixel of the
// shape, else 0.
void draw_shape(int kind, const Random& random, int64_t side, uint8_t* picture, uint8_t* mask = nullptr);

// The number of training pictures, 2000 for "". Throws UsageError for what is none from 10 to 1000000. format: of the data set.
int64_t generated_size(const std::string& argument, const std::string& format);

const std::vector<std::string>& generated_names();  // of the kinds

}  // namespace pipecast
