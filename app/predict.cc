// The classes of pictures, by a run's weights or a weights file.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "app/class_results.h"
#include "app/commands.h"
#include "app/preparation.h"
#include "app/training_options.h"
#include "data/class_folders.h"
#include "engine/launch.h"
#include "pipeline/limits.h"
#include "pipeline/train/run_folder.h"
#include "pipeline/train/trainer.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Images that were prepared before, of no known label: it is 0.
class PreparedImages : public Samples {
 public:
  PreparedImages(const Shape& image, int64_t count)
      : columns_{{"image", image}, {"label", {{1, 1, 1, 1}, Storage::int32}}}, count_(count), values_(size_t(image.count() * count)) {}

  float* image(int64_t number) { return values_.data() + number * columns_[0].sample.shape.count(); }
  int64_t size() const override { return count_; }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  void read(size_t column, const int32_t* samples, int64_t count, const Reading&, void* to) const override {
    if (column == 1) {
      std::fill_n(static_cast<int32_t*>(to), count, 0);
      return;
    }
    const int64_t floats = columns_[0].sample.shape.count();
    for (int64_t i = 0; i < count; ++i) std::copy_n(values_.data() + samples[i] * floats, floats, static_cast<float*>(to) + i * floats);
  }
  void add_to(Sha256&) const override {}  // what is predicted belongs to no run

 private:
  std::vector<InputSpec> columns_;
  int64_t count_;
  std::vector<float> values_;
};

struct Predicted {
  std::string path;
  std::string damage;                           // why it was not; "" if it was
  std::vector<std::pair<int64_t, double>> top;  // class and probability, the most probable first
};

// The most probable classes by the logits: softmax, in double precision.
std::vector<std::pair<int64_t, double>> most_probable(const float* logits, int64_t classes, int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(classes));
  std::iota(order.begin(), order.end(), 0);
  count = std::min(count, classes);
  std::partial_sort(order.begin(), order.begin() + count, order.end(),
                    [&](int64_t a, int64_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += std::exp(double(logits[c]) - logits[order[0]]);
  std::vector<std::pair<int64_t, double>> top;
  for (int64_t k = 0; k < count; ++k)
    top.emplace_back(order[size_t(k)], std::exp(double(logits[order[size_t(k)]]) - logits[order[0]]) / sum);
  return top;
}

class PredictCommand : public Command {
 public:
  PredictCommand()
      : Command("predict", "Say what a run's model, or a weights file, takes pictures for",
                "  pipecast predict --run runs/pets photo.jpg\n"
                "  pipecast predict --weights pets.safetensors folder/ --json") {
    trainer_.method = methods().front().name;
    trainer_.batch = 32;
  }

  void declare(Options& o) override {
    o.text("pictures", pictures_, "PATH", "a picture (PNG or JPEG), or a folder: all pictures in it and below");
    o.positional();
    o.text("run", run_, "RUN", "folder of a finished run");
    o.text("weights", weights_, "FILE", "instead of --run, a safetensors file");
    o.text("model", model_, "NAME", "model of --weights, where the file does not say it");
    o.text("data", data_, "FORMAT:DIR", "data set that the weights were trained on, where the file does not say how pictures are prepared");
    o.number("image-size", image_size_, "PIXELS", std::string("of --data: ") + image_size_help, 0, most_image_size);
    o.number("resize", resize_, "PIXELS", "with --data: the shorter side of a picture before the middle is taken; 0: the image's", 0,
             most_image_side);
    o.number("top", top_, "N", "classes to name for each picture", 1, most_classes);
    o.number("batch", trainer_.batch, "N", "pictures at a time", 1, most_batch);
    o.text("device", trainer_.device, "NAME", "cpu or cuda");
    o.number("threads", trainer_.threads, "N", "threads on the host; 0: all", 0, most_threads);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    if (run_.empty() == weights_.empty()) throw UsageError("predict needs either --run RUN or --weights FILE");
    if (!run_.empty()) read_run();
    std::vector<std::string> paths, notes;
    Mistakes mistakes;
    mistakes.check([&] { find_pictures(paths, notes); });
    NamedWeights named;
    mistakes.check([&] { read_model(named); });
    mistakes.report();

    trainer_.threads = threads_asked_for(trainer_.threads);
    set_threads(trainer_.threads);
    trainer_.batch = std::min<int64_t>(trainer_.batch, int64_t(paths.size()));
    Graph graph = make_model(named.model, named.options);
    if (graph.specs(1)[size_t(graph.prediction())].shape.rows() > 1)
      throw UsageError("model " + named.model + " gives every pixel a class, and predict names one for a picture: use eval --logits");
    Trainer trainer(std::move(graph), trainer_, {PassShape(trainer_.batch)});
    trainer.set_weights(named.weights);
    std::vector<Predicted> all;
    for (size_t begin = 0; begin < paths.size(); begin += size_t(trainer_.batch))
      predict({paths.begin() + ptrdiff_t(begin), paths.begin() + ptrdiff_t(std::min(begin + size_t(trainer_.batch), paths.size()))},
              trainer, named.options.image, all);
    if (json_) print_json(all, named, notes);
    else print(all, notes);
    report_damaged(all);
  }

 private:
  void read_run() {
    const RunFolder folder(run_);
    folder.check_finished();
    weights_ = folder.weights();
  }

  void find_pictures(std::vector<std::string>& paths, std::vector<std::string>& notes) const {
    std::error_code ignored;
    if (!fs::exists(pictures_, ignored)) throw UsageError("'" + pictures_ + "' is not there; name a picture or a folder of pictures");
    if (!fs::is_directory(pictures_, ignored)) {
      paths = {pictures_};
      return;
    }
    ClassFolders reader({".png", ".jpg", ".jpeg"}, "; name a picture or a folder of pictures");
    for (const fs::path& path : reader.files(pictures_)) paths.push_back(path.string());
    notes = reader.left_out();
    if (paths.empty()) throw UsageError("folder '" + pictures_ + "' holds no pictures (PNG or JPEG)");
  }

  // The weights, and how pictures are prepared for them.
  void read_model(NamedWeights& named) {
    std::optional<Dataset> dataset;
    if (!data_.empty()) dataset = load_dataset(data_, {.image_size = image_size_, .resize = resize_});
    named = read_weights(weights_, model_, dataset ? dataset->classes : 0);
    if (dataset) preparation_ = preparation_of(*dataset), named.options.image = model_options_of(*dataset).image;
    else if (!named.preparation.empty())
      preparation_ = preparation_from(named.preparation, named.options.image.c, named.options.classes, weights_);
    if (preparation_.mean.empty())
      throw UsageError(dataset ? "data set " + dataset->name + " has no pictures"
                               : "weights '" + weights_ +
                                     "' do not say how pictures are prepared: give --data, the data set that they were trained on");
    preparer_.emplace(preparation_, named.options.image);
  }

  // Whatever stands in the places of damaged pictures and behind the last one changes nothing for the others.
  void predict(const std::vector<std::string>& paths, Trainer& trainer, const Shape& image, std::vector<Predicted>& all) const {
    const auto images = std::make_shared<PreparedImages>(image, trainer_.batch);
    std::vector<Predicted> predicted(paths.size());
    std::vector<std::exception_ptr> failures(paths.size());  // memory ran out, say: it must not leave a thread
    parallel(int64_t(paths.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) try {
          predicted[size_t(i)].path = paths[size_t(i)];
          preparer_->prepare(paths[size_t(i)], images->image(i));
        } catch (const UsageError& error) {
          predicted[size_t(i)].damage = error.what();
        } catch (...) {
          failures[size_t(i)] = std::current_exception();
        }
    });
    for (const std::exception_ptr& failure : failures)
      if (failure) std::rethrow_exception(failure);
    std::vector<float> logits;
    trainer.evaluate(Batches(images, {.batch = trainer_.batch}), &logits);
    const int64_t classes = int64_t(logits.size()) / trainer_.batch;
    for (size_t i = 0; i < paths.size(); ++i) {
      if (predicted[i].damage.empty()) predicted[i].top = most_probable(logits.data() + int64_t(i) * classes, classes, top_);
      all.push_back(std::move(predicted[i]));
    }
  }

  void print(const std::vector<Predicted>& all, const std::vector<std::string>& notes) const {
    for (const Predicted& picture : all) {
      if (!picture.damage.empty()) continue;
      std::cout << shown(picture.path) << "\n";
      for (const auto& [number, probability] : picture.top)
        std::cout << format("  %6.2f %%  ", 100 * probability) << class_name(preparation_.class_names, number) << "\n";
    }
    for (const std::string& note : notes) std::cout << note << "\n";
  }

  void print_json(const std::vector<Predicted>& all, const NamedWeights& named, const std::vector<std::string>& notes) const {
    Json pictures = Json::array(), failed = Json::array();
    for (const Predicted& picture : all) {
      if (!picture.damage.empty()) {
        failed.push_back({{"picture", shown(picture.path)}, {"reason", printable(picture.damage)}});
        continue;
      }
      Json top = Json::array();
      for (const auto& [number, probability] : picture.top)
        top.push_back({{"class", number}, {"name", class_name(preparation_.class_names, number)}, {"probability", probability}});
      pictures.push_back({{"picture", shown(picture.path)}, {"top", top}});
    }
    std::cout << Json{{"model", named.model},
                      {"weights_digest", weights_digest(named.weights)},
                      {"notes", notes},
                      {"pictures", pictures},
                      {"failed", failed}}
                     .dump()
              << "\n";
  }

  void report_damaged(const std::vector<Predicted>& all) const {
    std::string sentences;
    size_t damaged = 0;
    for (const Predicted& picture : all)
      if (!picture.damage.empty()) sentences += (damaged++ ? "\n" : "") + picture.damage;
    if (damaged == all.size()) throw UsageError(sentences);
    if (damaged > 0) throw Error(sentences);
  }

  std::string pictures_, run_, weights_, model_, data_;
  int64_t top_ = 5, image_size_ = 0, resize_ = 0;
  TrainerOptions trainer_;
  bool json_ = false;
  Preparation preparation_;
  std::optional<PicturePreparer> preparer_;
};

}  // namespace

std::unique_ptr<Command> predict_command() { return std::make_unique<PredictCommand>(); }

}  // namespace pipecast
