#pragma once
// Data sets of labelled pictures. Columns: image (fp32, scaled, augmented, normalised) and label (int32); "second label" (int32) and
// "share" (fp32), the other label of a mixture and how much of it is the first (mixup). Where nothing is mixed the share is 1.
#include <map>
#include <string_view>

#include "data/dataset.h"

namespace pipecast {

struct PictureView {
  const uint8_t* pixels;  // one byte per channel, NHWC
  Shape shape;            // n = 1
};

// Labelled pictures, in memory or in files. Reading them is thread-safe.
class PictureSource {
 public:
  virtual ~PictureSource() = default;
  virtual int64_t size() const = 0;
  virtual int32_t label(int64_t picture) const = 0;
  // The pixels stay where they are as long as `room` does not change. Throws UsageError where the picture is damaged.
  virtual PictureView picture(int64_t picture, std::vector<uint8_t>& room) const = 0;
  virtual bool decodes() const = 0;  // pictures when they are asked for
  virtual void add_to(Sha256&) const = 0;
};

// In memory, all of one shape. One byte per channel, NHWC.
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
  std::vector<std::string> notes = {}, class_names = {};  // see Dataset
};

Dataset dataset_of(PictureSet, const DataOptions& = {});
// Of pictures that outlive the samples. The set says how they are normalised.
std::shared_ptr<const Samples> picture_samples(const PictureSet&, const Pictures&);
// image: the shape of each, n = 1; resize: see DataOptions.
std::shared_ptr<const Samples> picture_samples(std::shared_ptr<const PictureSource>, const Shape& image, int64_t resize,
                                               const std::vector<float>& mean, const std::vector<float>& deviation);

// One per file:
enum class Cifar { ten, hundred, hundred_coarse };                       // coarse: CIFAR-100 with the labels of its 20 superclasses
PictureSet load_cifar(Cifar, const std::string& directory, BadSamples);  // records: a label byte, or a coarse and a fine one; 3072 bytes
PictureSet load_mnist(const std::string& directory, BadSamples);         // idx files
PictureSet load_fashion_mnist(const std::string& directory, BadSamples);
Dataset load_folder(const std::string& directory, const DataOptions&);         // train/CLASS/*.png or *.jpg, and val or test the same
Dataset load_tiny_imagenet(const std::string& directory, const DataOptions&);  // the same, as it is unpacked
Dataset load_food101(const std::string& directory, const DataOptions&);        // images/CLASS/*.jpg, meta/train.txt, meta/test.txt
PictureSet generate_shapes(const std::string& train_size);  // 10 kinds of shape, place, size, colours at random; "" = 2000
Dataset generate_masks(const std::string& train_size, const DataOptions&);  // the same, with a label for each pixel

// Their readers over memory. `file` stands for the file in messages.
int64_t append_cifar(std::string_view bytes, const std::string& file, Cifar, BadSamples, Pictures&);  // returns how many were skipped
// Returns the shape of a picture, adds to `skipped`.
Shape append_idx(std::string_view images, const std::string& images_file, std::string_view labels, const std::string& labels_file,
                 BadSamples, int64_t& skipped, Pictures&);
std::map<std::string, std::string> parse_annotations(std::string_view text, const std::string& file);  // class by picture, both names
std::vector<std::pair<std::string, std::string>> parse_food101_list(std::string_view text, const std::string& file);  // class and name

}  // namespace pipecast
