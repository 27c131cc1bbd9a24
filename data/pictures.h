#pragma once
// Data sets of labelled pictures in memory. Columns: image (fp32, normalised, augmented) and label (int32).
#include <map>
#include <string_view>

#include "data/dataset.h"

namespace pipecast {

// One byte per channel, NHWC.
struct Pictures {
  std::vector<uint8_t> pixels;
  std::vector<int32_t> labels;
  int64_t size() const { return int64_t(labels.size()); }
};

struct PictureSet {
  std::string name;
  Shape image;  // n = 1
  int64_t classes = 0;
  Pictures train, test;
  // Per channel, of pixel / 255: what normalising subtracts and divides by.
  std::vector<float> mean, deviation;
  int64_t skipped = 0;  // bad samples left out
  std::vector<std::string> notes = {};  // see Dataset
};

Dataset dataset_of(PictureSet);
// Of pictures that outlive the samples. The set says how they are normalised.
std::shared_ptr<const Samples> picture_samples(const PictureSet&, const Pictures&);

// One per file:
PictureSet load_cifar10(const std::string& directory, BadSamples);  // data_batch_*.bin, test_batch.bin: label byte, 3072 bytes RGB planar
PictureSet load_folder(const std::string& directory, const DataOptions&);  // train/CLASS/*.png or *.jpg, and val or test the same
PictureSet generate_shapes(const std::string& train_size);          // 10 kinds of shape, place, size, colours at random; "" = 2000

// Their readers over memory. `file` stands for the file in messages.
int64_t append_cifar10(std::string_view bytes, const std::string& file, BadSamples, Pictures&);  // returns how many were skipped
std::map<std::string, std::string> parse_annotations(std::string_view text, const std::string& file);  // class by picture, both names

}  // namespace pipecast
