#include "data/dataset.h"

#include "data/columns.h"
#include "data/generated_texts.h"
#include "data/pictures.h"
#include "data/text.h"
#include "engine/files/sha256.h"
#include "engine/registry.h"

namespace pipecast {

namespace {

Registry<DatasetFormat>& registry() {
  static Registry<DatasetFormat> formats = registry_of<DatasetFormat>(
      "data set",
      {
          {"cifar10", "cifar10:DIR, the binary version of CIFAR-10 (data/download_cifar10 fetches it)",
           [](const std::string& argument, const DataOptions& options) {
             return dataset_of(load_cifar(Cifar::ten, argument, options.bad_samples), options);
           }},
          {"cifar100", "cifar100:DIR, the binary version of CIFAR-100, its 100 classes ('data/download cifar100 DIR' fetches it)",
           [](const std::string& argument, const DataOptions& options) {
             return dataset_of(load_cifar(Cifar::hundred, argument, options.bad_samples), options);
           }},
          {"cifar100-coarse", "cifar100-coarse:DIR, the same with its 20 superclasses",
           [](const std::string& argument, const DataOptions& options) {
             return dataset_of(load_cifar(Cifar::hundred_coarse, argument, options.bad_samples), options);
           }},
          {"mnist", "mnist:DIR, the four idx files of MNIST, unpacked ('data/download mnist DIR' fetches them)",
           [](const std::string& argument, const DataOptions& options) {
             return dataset_of(load_mnist(argument, options.bad_samples), options);
           }},
          {"fashion-mnist", "fashion-mnist:DIR, the same of Fashion-MNIST ('data/download fashion-mnist DIR' fetches them)",
           [](const std::string& argument, const DataOptions& options) {
             return dataset_of(load_fashion_mnist(argument, options.bad_samples), options);
           }},
          {"folder", "folder:DIR, pictures in DIR/train/CLASS/ and DIR/val/CLASS/ (or test), PNG or JPEG", load_folder},
          {"tiny-imagenet", "tiny-imagenet:DIR, Tiny-ImageNet as it is unpacked ('data/download tiny-imagenet DIR' fetches it)",
           load_tiny_imagenet},
          {"food101", "food101:DIR, Food-101 as it is unpacked ('data/download food101 DIR' fetches it)", load_food101},
          {"text", "text:DIR, texts in DIR/train/CLASS/*.txt and DIR/test/CLASS/*.txt, as the IMDB reviews are unpacked", load_text},
          {"columns",
           "columns:DIR, tokens and other whole numbers in DIR/train.safetensors and DIR/test.safetensors, as data/prepare_text writes "
           "them",
           load_columns},
          {"generated-recall", "generated-recall or generated-recall:SIZE, sequences of digits: which one follows the marker",
           generated_recall},
          {"generated-translation", "generated-translation:TASK or TASK:SIZE, a sequence of digits to another: copy, reverse, sort, add",
           generated_translation},
          {"generated-language", "generated-language:TASK or TASK:SIZE, the same for a language model: the sequence, then the other",
           generated_language},
          {"generated", "generated or generated:SIZE, ten kinds of shape drawn by random numbers, no file needed",
           [](const std::string& argument, const DataOptions& options) { return dataset_of(generate_shapes(argument), options); }},
          {"generated-masks", "generated-masks or generated-masks:SIZE, the same shapes with a label for every pixel, at 64 pixels a side",
           generate_masks},
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

Orientation orientation_mode(const std::string& name) {
  if (name == "ignore") return Orientation::ignore;
  if (name == "apply") return Orientation::apply;
  throw UsageError(unknown_name("treatment of the orientation", name, {"ignore", "apply"}));
}

Dataset load_dataset(const std::string& format_and_path, const DataOptions& options) {
  const size_t colon = format_and_path.find(':');
  const std::string name = format_and_path.substr(0, colon);
  const std::string argument = colon == std::string::npos ? "" : format_and_path.substr(colon + 1);
  const DatasetFormat& format = registry().find(name);
  if (options.resize > 0 && options.resize < options.image_size)
    throw UsageError("--resize " + std::to_string(options.resize) + " makes pictures smaller than --image-size " +
                     std::to_string(options.image_size) + "; it must be at least as large");
  if (options.resize > 0 && options.image_size == 0)
    throw UsageError("--resize " + std::to_string(options.resize) + " needs --image-size, the size of the images from the middle");
  Dataset dataset = format.load(argument, options);
  dataset.loaded_with = options;
  if (options.image_size > 0 && dataset.image.h != options.image_size)
    throw UsageError("--image-size " + std::to_string(options.image_size) + " is for pictures, and " + name +
                     " has none to scale: leave it out");
  return dataset;
}

std::string digest(const Dataset& dataset) {
  Sha256 digest;
  dataset.train->add_to(digest), dataset.test->add_to(digest);
  return digest.hex();
}

}  // namespace pipecast
