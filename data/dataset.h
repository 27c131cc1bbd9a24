#pragma once
// data/: one file per data-set format, augmentation, and the loader that keeps ahead of training.
#include <cstdint>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace pipecast {

// Labelled pictures in memory, one byte per channel, NHWC.
struct Pictures {
  std::vector<uint8_t> pixels;
  std::vector<int32_t> labels;
  int64_t size() const { return int64_t(labels.size()); }
};

struct Dataset {
  std::string name;
  Shape image;  // n = 1
  int64_t classes = 0;
  Pictures train, test;
  // Per channel, of pixel / 255: what normalising subtracts and divides by.
  std::vector<float> mean, deviation;
};

// "cifar10:DIR" or "generated" or "generated:SIZE". Throws UsageError naming the file and the defect: missing, truncated,
// a label out of range, an unknown format (with the nearest known name).
Dataset load_dataset(const std::string& format_and_path);

struct DatasetFormat {
  std::string name, summary;
  Dataset (*load)(const std::string& argument);  // what follows the colon
};
const std::vector<DatasetFormat>& dataset_formats();  // a format is its file and its row in dataset.cc

// One per file:
Dataset load_cifar10(const std::string& directory);      // data_batch_*.bin and test_batch.bin: label byte, then 3072 bytes RGB planar
Dataset generate_shapes(const std::string& train_size);  // 10 kinds of shape, place, size, colours and noise at random; "" = 2000

}  // namespace pipecast
