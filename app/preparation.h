#pragma once
// What is done to a picture before a model sees it. Weights files keep it, so that they can be used without the data set that they were
// trained on.
#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace pipecast {

struct Preparation {
  std::vector<float> mean, deviation;  // per channel of pixel / 255; empty: the data set has no pictures
  int64_t resize = 0;                  // the shorter side of the picture of which the middle is taken; 0: the pictures had the images' size
  Orientation orientation = Orientation::ignore;
  std::vector<std::string> class_names;  // empty where the data set names none
};

Preparation preparation_of(const Dataset&);
// JSON; "" where there are no pictures.
std::string to_text(const Preparation&);
// Throws UsageError for what is no preparation of a model with so many channels and classes. origin: of the text, for the message.
Preparation preparation_from(const std::string& text, int64_t channels, int64_t classes, const std::string& origin);

// Makes the images of pictures in files, as at an evaluation. A picture of another size than the images, where pictures were not resized,
// is scaled to them, and the middle taken.
class PicturePreparer {
 public:
  // image: n = 1, with 1 or 3 channels.
  PicturePreparer(const Preparation&, const Shape& image);
  // Throws UsageError for a file that cannot be read or decoded, or does not fit.
  void prepare(const std::string& path, float* image) const;

 private:
  Preparation preparation_;
  Shape image_;
};

}  // namespace pipecast
