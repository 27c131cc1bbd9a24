#include "app/preparation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/picture_files.h"
#include "engine/error.h"
#include "models/models.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

// Pictures in grey, of one channel: the luma of ITU-R 601 as Pillow rounds it.
class GreyPictures : public PictureSource {
 public:
  explicit GreyPictures(std::shared_ptr<const PictureSource> coloured) : coloured_(std::move(coloured)) {}
  int64_t size() const override { return coloured_->size(); }
  int32_t label(int64_t picture) const override { return coloured_->label(picture); }
  bool decodes() const override { return coloured_->decodes(); }
  void add_to(Sha256& digest) const override { coloured_->add_to(digest); }

  PictureView picture(int64_t picture, std::vector<uint8_t>& room) const override {
    std::vector<uint8_t> decoded;
    const PictureView from = coloured_->picture(picture, decoded);
    Shape shape = from.shape;
    shape.c = 1;
    room.resize(size_t(shape.count()));
    for (size_t i = 0; i < room.size(); ++i) {
      const uint8_t* p = from.pixels + 3 * i;
      room[i] = uint8_t((19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 0x8000u) >> 16);
    }
    return {room.data(), shape};
  }

 private:
  std::shared_ptr<const PictureSource> coloured_;
};

bool are_numbers(const Json& json, int64_t count, double above) {
  return json.is_array() && int64_t(json.size()) == count && std::ranges::all_of(json, [&](const Json& value) {
           return value.is_number() && std::isfinite(value.get<float>()) && value.get<double>() > above;
         });
}

bool are_names(const Json& json, int64_t classes) {
  return json.is_array() && (json.empty() || int64_t(json.size()) == classes) &&
         std::ranges::all_of(json, [](const Json& name) { return name.is_string(); });
}

bool is_preparation(const Json& json, int64_t channels, int64_t classes) {
  for (const char* key : {"mean", "deviation", "resize", "orientation", "class_names"})
    if (!json.is_object() || !json.contains(key)) return false;
  const Json& resize = json["resize"];
  return are_numbers(json["mean"], channels, -1e30) && are_numbers(json["deviation"], channels, 0) && resize.is_number_unsigned() &&
         resize.get<uint64_t>() <= uint64_t(most_picture_side) && (json["orientation"] == "ignore" || json["orientation"] == "apply") &&
         are_names(json["class_names"], classes);
}

}  // namespace

Preparation preparation_of(const Dataset& dataset) {
  const DataOptions& options = dataset.loaded_with;
  return {dataset.mean, dataset.deviation, options.resize > 0 ? options.resize : options.image_size, options.orientation,
          dataset.class_names};
}

std::string to_text(const Preparation& p) {
  if (p.mean.empty()) return "";
  Json names = Json::array();
  for (const std::string& name : p.class_names) names.push_back(shown(name));  // JSON holds UTF-8 alone
  return Json{{"mean", p.mean},
              {"deviation", p.deviation},
              {"resize", p.resize},
              {"orientation", p.orientation == Orientation::apply ? "apply" : "ignore"},
              {"class_names", names}}
      .dump();
}

Preparation preparation_from(const std::string& text, int64_t channels, int64_t classes, const std::string& origin) {
  const Json json = Json::parse(text, nullptr, false);
  if (!is_preparation(json, channels, classes))
    throw UsageError("weights '" + origin + "' say of their preparation of pictures '" + shown(text) + "', which is none for " +
                     std::to_string(channels) + " channels and " + std::to_string(classes) + " classes: the file is damaged; give --data");
  return {json["mean"].get<std::vector<float>>(), json["deviation"].get<std::vector<float>>(), json["resize"].get<int64_t>(),
          orientation_mode(json["orientation"].get<std::string>()), json["class_names"].get<std::vector<std::string>>()};
}

PicturePreparer::PicturePreparer(const Preparation& preparation, const Shape& image) : preparation_(preparation), image_(image) {
  if (image.c != 1 && image.c != 3)
    throw UsageError("the model reads images of " + std::to_string(image.c) +
                     " channels, and pictures have 1 or 3: they cannot be predicted");
}

void PicturePreparer::prepare(const std::string& path, float* image) const {
  // As a data set of this picture alone would read it.
  const int64_t resize = preparation_.resize;
  const auto files_with = [&](int64_t shorter) {
    const Decoding decoding{preparation_.orientation, 2 * shorter};
    return std::make_shared<const PictureFiles>(std::vector<ClassFile>{{path, 0}}, decoding, BadSamples::fail,
                                                std::make_shared<CacheRoom>(0));
  };
  std::shared_ptr<const PictureFiles> files = files_with(resize);
  int64_t shorter = resize;
  if (const Shape& own = files->shape(0); resize == 0 && (own.h != image_.h || own.w != image_.w)) {
    if (image_.h != image_.w)
      throw UsageError("picture '" + path + "' is " + std::to_string(own.w) + " x " + std::to_string(own.h) +
                       ", and the model reads pictures of " + std::to_string(image_.w) + " x " + std::to_string(image_.h) +
                       "; scale it to that");
    shorter = image_.h;
    files = files_with(shorter);
  }
  std::shared_ptr<const PictureSource> source = files;
  if (image_.c == 1) source = std::make_shared<GreyPictures>(files);
  const int32_t first = 0;
  picture_samples(source, image_, shorter, preparation_.mean, preparation_.deviation)->read(0, &first, 1, {}, image);
}

}  // namespace pipecast
