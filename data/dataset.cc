#include "data/dataset.h"

#include "engine/error.h"

namespace pipecast {

const std::vector<DatasetFormat>& dataset_formats() {
  static const std::vector<DatasetFormat> formats = {
      {"cifar10", "cifar10:DIR, the binary version of CIFAR-10 (data/download_cifar10 fetches it)", load_cifar10},
      {"generated", "generated or generated:SIZE, ten kinds of shape drawn by random numbers, no file needed", generate_shapes},
  };
  return formats;
}

Dataset load_dataset(const std::string& format_and_path) {
  const size_t colon = format_and_path.find(':');
  const std::string name = format_and_path.substr(0, colon);
  const std::string argument = colon == std::string::npos ? "" : format_and_path.substr(colon + 1);
  std::vector<std::string> known;
  for (const DatasetFormat& format : dataset_formats()) {
    if (format.name == name) return format.load(argument);
    known.push_back(format.name);
  }
  throw UsageError(unknown_name("data set", name, known));
}

}  // namespace pipecast
