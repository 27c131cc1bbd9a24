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
enum class Cifar { ten, hundred, hundred_coarse };  // coarse: CIFAR-100 with the labels of its 20 superclasses
PictureSet load_cifar(Cifar, const std::string& directory, BadSamples);  // records: a label byte, or a coarse and a fine one; 3072 bytes
PictureSet load_mnist(const std::string& directory, BadSamples);          // idx files
PictureSet load_fashion_mnist(const std::string& directory, BadSamples);
PictureSet load_folder(const std::string& directory, const DataOptions&);  // train/CLASS/*.png or *.jpg, and val or test the same
PictureSet generate_shapes(const std::string& train_size);          // 10 kinds of shape, place, size, colours at random; "" = 2000

// Their readers over memory. `file` stands for the file in messages.
int64_t append_cifar(std::string_view bytes, const std::string& file, Cifar, BadSamples, Pictures&);  // returns how many were skipped
// Returns the shape of a picture, adds to `skipped`.
Shape append_idx(std::string_view images, const std::string& images_file, std::string_view labels, const std::string& labels_file, BadSamples,
                 int64_t& skipped, Pictures&);
std::map<std::string, std::string> parse_annotations(std::string_view text, const std::string& file);  // class by picture, both names

}  // namespace pipecast
