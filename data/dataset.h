#pragma once
// data/: one file per data-set format, augmentation, and the loader that keeps ahead of training.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
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
  int64_t skipped = 0;  // bad samples left out
};

// What becomes of a sample that is damaged while the file around it is not: a label out of range, a picture that does not decode.
enum class BadSamples { fail, skip };
BadSamples bad_samples_mode(const std::string& name);  // "fail" or "skip"; throws UsageError

// "cifar10:DIR", "folder:DIR", "generated" or "generated:SIZE". Throws UsageError naming the file and the defect: missing, truncated,
// a bad sample unless those are to be skipped, an unknown format (with the nearest known name).
Dataset load_dataset(const std::string& format_and_path, BadSamples = BadSamples::fail);

// SHA-256 of enough of a data set to tell it from others, in milliseconds: all labels and every 16th picture.
std::string digest(const Dataset&);

struct DatasetFormat {
  std::string name, summary;
  Dataset (*load)(const std::string& argument, BadSamples);  // what follows the colon
};
const std::vector<DatasetFormat>& dataset_formats();  // a format is its file and its row in dataset.cc

// One per file:
Dataset load_cifar10(const std::string& directory, BadSamples);  // data_batch_*.bin, test_batch.bin: label byte, 3072 bytes RGB planar
Dataset load_folder(const std::string& directory, BadSamples);   // train/CLASS/*.png or *.jpg, and val or test the same
Dataset generate_shapes(const std::string& train_size, BadSamples);  // 10 kinds of shape, place, size, colours at random; "" = 2000

// Their readers over memory. `file` stands for the file in messages.
int64_t append_cifar10(std::string_view bytes, const std::string& file, BadSamples, Pictures&);  // returns how many were skipped
std::map<std::string, std::string> parse_annotations(std::string_view text, const std::string& file);  // class by picture, both names

}  // namespace pipecast
