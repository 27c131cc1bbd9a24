#include "data/dataset.h"

#include "data/pictures.h"
#include "data/text.h"
#include "engine/files/sha256.h"
#include "engine/registry.h"

namespace pipecast {

namespace {

Registry<DatasetFormat>& registry() {
  static Registry<DatasetFormat> formats = registry_of<DatasetFormat>("data set", {
      {"cifar10", "cifar10:DIR, the binary version of CIFAR-10 (data/download_cifar10 fetches it)",
       [](const std::string& argument, BadSamples bad) { return dataset_of(load_cifar10(argument, bad)); }},
      {"folder", "folder:DIR, pictures in DIR/train/CLASS/ and DIR/val/CLASS/ (or test), PNG or JPEG, all of one size",
       [](const std::string& argument, BadSamples bad) { return dataset_of(load_folder(argument, bad)); }},
      {"text", "text:DIR, texts in DIR/train/CLASS/*.txt and DIR/test/CLASS/*.txt, as the IMDB reviews are unpacked", load_text},
      {"generated", "generated or generated:SIZE, ten kinds of shape drawn by random numbers, no file needed",
       [](const std::string& argument, BadSamples) { return dataset_of(generate_shapes(argument)); }},
  });
  return formats;
}

}  // namespace

void register_dataset(DatasetFormat format) { registry().add(std::move(format)); }

const std::vector<DatasetFormat>& dataset_formats() { return registry().entries(); }

BadSamples bad_samples_mode(const std::string& name) {
  if (name == "fail") return BadSamples::fail;
  if (name == "skip") return BadSamples::skip;
  throw UsageError(unknown_name("treatment of bad samples", name, {"fail", "skip"}));
}

Dataset load_dataset(const std::string& format_and_path, BadSamples bad_samples) {
  const size_t colon = format_and_path.find(':');
  const std::string name = format_and_path.substr(0, colon);
  const std::string argument = colon == std::string::npos ? "" : format_and_path.substr(colon + 1);
  return registry().find(name).load(argument, bad_samples);
}

std::string digest(const Dataset& dataset) {
  Sha256 digest;
  dataset.train->add_to(digest), dataset.test->add_to(digest);
  return digest.hex();
}

}  // namespace pipecast
