#pragma once
// A model and pictures that train in milliseconds.
#include <string>

#include "engine/random.h"
#include "layers/layers.h"
#include "models/models.h"
#include "picture_batches.h"

namespace pipecast::testing {

// `blocks` parts of a convolution and a batch norm, and a head: matrices and vectors. With dropout behind the third block passes differ.
inline Graph small_graph(int blocks, bool with_dropout = false) {
  Graph g("small", {1, 4, 4, 2});
  int x = 0;
  for (int k = 0; k < blocks; ++k) {
    const std::string number = std::to_string(k);
    g.part("part" + number);
    x = g.add(convolution("conv" + number, {.in = k ? 3 : 2, .out = 3, .kernel = 3, .stride = 1, .padding = 1}), {x});
    x = g.add(batch_norm("bn" + number, {.channels = 3, .relu = true}), {x});
    if (with_dropout && k == 2) x = g.add(dropout("drop", 0.25f), {x});
  }
  g.part("head");
  x = g.add(global_average_pool("pool"), {x});
  add_classifier_loss(g, g.add(linear("fc", 3, 4), {x}), 0);
  return g;
}

// `count` pictures of 4 x 4 x 2 in four classes.
inline PictureSet noise(int64_t count) {
  PictureSet d{"noise", {1, 4, 4, 2}, 4, {}, {}, {.5f, .5f}, {.25f, .25f}};
  const Random random{3, purpose("noise"), 0};
  for (int64_t i = 0; i < count; ++i) d.train.labels.push_back(int32_t(random.below(1000000 + i, 4)));
  for (int64_t i = 0; i < count * d.image.count(); ++i) d.train.pixels.push_back(uint8_t(random.below(i, 256)));
  return d;
}

}  // namespace pipecast::testing
