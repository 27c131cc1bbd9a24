#include "data/dataset.h"

#include "engine/error.h"
#include "engine/files/sha256.h"

namespace pipecast {

const std::vector<DatasetFormat>& dataset_formats() {
  static const std::vector<DatasetFormat> formats = {
      {"cifar10", "cifar10:DIR, the binary version of CIFAR-10 (data/download_cifar10 fetches it)", load_cifar10},
      {"folder", "folder:DIR, pictures in DIR/train/CLASS/ and DIR/val/CLASS/ (or test), PNG or JPEG, all of one size", load_folder},
      {"generated", "generated or generated:SIZE, ten kinds of shape drawn by random numbers, no file needed", generate_shapes},
  };
  return formats;
}

BadSamples bad_samples_mode(const std::string& name) {
  if (name == "fail") return BadSamples::fail;
  if (name == "skip") return BadSamples::skip;
  throw UsageError(unknown_name("treatment of bad samples", name, {"fail", "skip"}));
}

Dataset load_dataset(const std::string& format_and_path, BadSamples bad_samples) {
  const size_t colon = format_and_path.find(':');
  const std::string name = format_and_path.substr(0, colon);
  const std::string argument = colon == std::string::npos ? "" : format_and_path.substr(colon + 1);
  std::vector<std::string> known;
  for (const DatasetFormat& format : dataset_formats()) {
    if (format.name == name) return format.load(argument, bad_samples);
    known.push_back(format.name);
  }
  throw UsageError(unknown_name("data set", name, known));
}

std::string digest(const Dataset& dataset) {
  constexpr int64_t every = 16;
  Sha256 digest;
  const size_t bytes = size_t(dataset.image.count());
  for (const Pictures* pictures : {&dataset.train, &dataset.test}) {
    digest.add(pictures->labels.data(), pictures->labels.size() * sizeof(int32_t));
    for (int64_t i = 0; i < pictures->size(); i += every) digest.add(pictures->pixels.data() + size_t(i) * bytes, bytes);
  }
  return digest.hex();
}

}  // namespace pipecast
