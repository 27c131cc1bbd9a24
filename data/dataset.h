#pragma once
// The folder data/ has one file per data-set format, the samples of a data set as named columns, mini-batches, and the loader that
// prefetches them. This file: data sets and their samples.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/augmentation.h"
#include "engine/tensor.h"

namespace pipecast {

class Sha256;

// How samples of one mini-batch are read.
struct Reading {
  int64_t length = 1;  // positions per sample, for columns that are sequences; shorter samples are padded with zeros
  Augmentation augmentation;
  uint64_t seed = 0;
  int64_t epoch = 0;
  // The position of the first sample in the shuffled order of the epoch. The random numbers of a sample are derived from its position, so
  // they do not depend on the batch size.
  int64_t place = 0;
  // The sample behind the last one in that order, and its position: behind the last of all is the first. For mixup.
  int32_t next = 0;
  int64_t next_place = 0;
};

// The samples of a data set's training or test part, as named columns. Reading them is thread-safe.
class Samples {
 public:
  virtual ~Samples() = default;
  virtual int64_t size() const = 0;
  virtual const std::vector<InputSpec>& columns() const = 0;
  // The bucket lengths of mini-batches, ascending. No sample is longer than the last one. {1} where no column is a sequence.
  virtual std::vector<int64_t> lengths() const { return {1}; }
  virtual int64_t length(int64_t /*sample*/) const { return 1; }
  // Writes this column of the samples to `to`, one after another: columns()[column].of({count, reading.length}).
  virtual void read(size_t column, const int32_t* samples, int64_t count, const Reading&, void* to) const = 0;
  // Throws UsageError for an augmentation that does not apply.
  virtual void check(const Augmentation&) const {}
  // Whether reading this column takes long, as decoding pictures does: a loader gives it several threads.
  virtual bool takes_long(size_t /*column*/) const { return false; }
  // Adds all of the samples to the hash: data sets that differ in anything a model sees have different digests.
  virtual void add_to(Sha256&) const = 0;
};

// What to do with a damaged sample, such as a label out of range or a picture that cannot be decoded.
enum class BadSamples { fail, skip };
BadSamples bad_samples_mode(const std::string& name);  // "fail" or "skip"; throws UsageError

// What to do with a picture whose EXIF data say that it is stored mirrored or turned: take the pixels as they are stored, as torchvision's
// ImageFolder does, or turn it upright.
enum class Orientation { ignore, apply };
Orientation orientation_mode(const std::string& name);  // "ignore" or "apply"; throws UsageError

struct DataOptions {
  BadSamples bad_samples = BadSamples::fail;
  Orientation orientation = Orientation::ignore;
  // Images of so many pixels a side are made of pictures of any size: the shorter side becomes `resize` pixels (0: as many as the image
  // has), and the middle is taken. 0: as the pictures are.
  int64_t image_size = 0, resize = 0;
  int64_t cache = int64_t(2) << 30;  // bytes of decoded pictures that are kept in memory, of a data set whose pictures are files
};

struct Dataset {
  std::string name;
  // Sizes that a model for this data set is built with; 0, or 1 x 1 x 1 for the image, where a size does not apply.
  Shape image;                                // n = 1
  int64_t classes = 0;                        // of the label
  int64_t vocabulary = 0;                     // of the tokens
  std::vector<std::string> class_names = {};  // in their order; empty where the data set names none
  std::shared_ptr<const Samples> train, test;
  int64_t skipped = 0;                  // bad samples left out
  std::vector<std::string> notes = {};  // what else was left out and why, a sentence each, for the user to read
  // Of pictures, per channel of pixel / 255: what normalising subtracts and divides by. Empty where there are none.
  std::vector<float> mean = {}, deviation = {};
  DataOptions loaded_with = {};  // by load_dataset()
};

// "cifar10:DIR" and so on: a name of dataset_formats(), a colon, its argument. Throws UsageError naming the file and the defect: missing,
// truncated, a bad sample unless those are to be skipped, an unknown format (with the nearest known name).
Dataset load_dataset(const std::string& format_and_path, const DataOptions& = {});

// SHA-256 of all samples (Samples::add_to).
std::string digest(const Dataset&);

struct DatasetFormat {
  std::string name, summary;
  Dataset (*load)(const std::string& argument, const DataOptions&);  // what follows the colon
};
const std::vector<DatasetFormat>& dataset_formats();  // each built-in format has its own file and a row in dataset.cc
// Adds a format that load_dataset() then knows. Throws UsageError for a name that is taken.
void register_dataset(DatasetFormat);

}  // namespace pipecast
