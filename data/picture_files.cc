#include "data/picture_files.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <mutex>
#include <set>

#include "data/decoders.h"
#include "engine/error.h"
#include "engine/files/checksum.h"
#include "engine/files/durable_file.h"
#include "engine/files/sha256.h"
#include "engine/launch.h"

namespace pipecast {
namespace {

constexpr uint64_t most_picture_bytes = uint64_t(1) << 27;  // of a file
constexpr uint64_t beginning = 4096;                        // bytes of a file that the digest knows
constexpr uint64_t header = 1 << 16;                        // bytes that nearly all headers end within

}  // namespace

PictureFiles::PictureFiles(std::vector<ClassFile> files, const Decoding& decoding, BadSamples bad_samples, std::shared_ptr<CacheRoom> room)
    : decoding_(decoding), bad_samples_(bad_samples), room_(std::move(room)) {
  for (ClassFile& file : files) files_.push_back({.path = std::move(file.path), .label = file.label});
  check_each([&](File& file, size_t) {
    std::vector<uint8_t> bytes = read_beginning(file.path, header, file.bytes);
    file.hash = hash64(bytes.data(), std::min(bytes.size(), size_t(beginning)));
    bool cut = file.bytes > bytes.size();
    const auto read_all = [&] { bytes = read_file(file.path, most_picture_bytes), cut = false; };
    // EXIF data may stand behind a PNG's pixels.
    if (cut && !is_jpeg(text_of(bytes)) && decoding_.orientation == Orientation::apply) read_all();
    PictureFormat format;
    try {
      format = picture_format(text_of(bytes), file.path, decoding_, cut);
    } catch (const UsageError&) {
      if (!cut) throw;
      read_all();
      format = picture_format(text_of(bytes), file.path, decoding_);
    }
    file.shape = format.shape, file.orientation = format.orientation;
  });
  kept_ = std::vector<std::atomic<const uint8_t*>>(files_.size());
}

PictureFiles::~PictureFiles() {
  for (const auto& pixels : kept_) delete[] pixels.load();
}

template <class F>
void PictureFiles::check_each(const F& check) {
  std::exception_ptr failure;  // the last one: memory ran out, say. It must not leave a thread.
  std::mutex mutex;
  parallel(int64_t(files_.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) try {
        check(files_[size_t(i)], size_t(i));
      } catch (const UsageError& error) {
        files_[size_t(i)].damage = error.what();
      } catch (...) {
        std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
  });
  if (failure) std::rethrow_exception(failure);
  // In their order, so that the same one is named each time.
  std::set<int32_t> labels;  // of the good ones
  for (const File& file : files_) {
    if (file.damage.empty()) labels.insert(file.label);
    else if (bad_samples_ == BadSamples::fail) throw UsageError(file.damage);
  }
  if (labels.empty())
    throw UsageError("all " + std::to_string(files_.size()) + " pictures are damaged; the first: " + files_.front().damage);
  // A class that lost all of its pictures would leave the model without it, and nobody would know.
  for (const File& file : files_)
    if (!labels.contains(file.label))
      throw UsageError("all pictures of the class of '" + file.path + "' are damaged; mend them or take the class's folder out");
  // The good ones move up, with their pixels; nothing throws from here on, so none of those is lost.
  size_t good = 0;
  for (size_t i = 0; i < files_.size(); ++i) {
    if (!files_[i].damage.empty()) continue;
    if (good < i) {
      std::swap(files_[good], files_[i]);
      if (!kept_.empty()) kept_[good] = kept_[i].exchange(nullptr);
    }
    ++good;
  }
  skipped_ += int64_t(files_.size() - good);
  files_.resize(good);
}

void PictureFiles::check_all() {
  check_each([&](File&, size_t i) {
    std::vector<uint8_t> room;
    picture(int64_t(i), room);
  });
}

std::vector<uint8_t> PictureFiles::decoded(const File& file) const {
  std::vector<uint8_t> pixels(size_t(file.shape.count()));
  decode_picture(text_of(read_file(file.path, most_picture_bytes)), file.path, file.shape, pixels.data(), decoding_);
  return pixels;
}

PictureView PictureFiles::picture(int64_t picture, std::vector<uint8_t>& room) const {
  const File& file = files_[size_t(picture)];
  std::atomic<const uint8_t*>& kept = kept_[size_t(picture)];
  if (const uint8_t* pixels = kept.load(std::memory_order_acquire)) return {pixels, file.shape};
  room = decoded(file);
  const int64_t bytes = file.shape.count();
  if (room_->fetch_sub(bytes) < bytes) {
    *room_ += bytes;
    return {room.data(), file.shape};
  }
  auto pixels = std::make_unique<uint8_t[]>(size_t(bytes));
  std::copy(room.begin(), room.end(), pixels.get());
  const uint8_t* other = nullptr;
  if (kept.compare_exchange_strong(other, pixels.get(), std::memory_order_acq_rel)) return {pixels.release(), file.shape};
  *room_ += bytes;  // another thread was faster
  return {other, file.shape};
}

int64_t PictureFiles::turned() const {
  return std::count_if(files_.begin(), files_.end(), [](const File& file) { return file.orientation != 1; });
}

int64_t PictureFiles::decoded_bytes() const {
  int64_t bytes = 0;
  for (const File& file : files_) bytes += file.shape.count();
  return bytes;
}

void PictureFiles::add_to(Sha256& digest) const {
  for (const File& file : files_) {
    const uint64_t numbers[] = {uint64_t(file.label), file.bytes, file.hash};
    digest.add(numbers, sizeof numbers);
  }
  const std::string how = std::string(jpeg_decoder()) + (decoding_.orientation == Orientation::apply ? ", upright" : "");
  digest.add(how.data(), how.size());
}

namespace {

// All of one size, or it says what to do.
void check_shapes(const PictureFiles& files, const Shape& shape, const std::string& first) {
  for (int64_t i = 0; i < files.size(); ++i)
    if (const Shape& own = files.shape(i); own != shape)
      throw UsageError("picture '" + files.path(i) + "' is " + std::to_string(own.w) + " x " + std::to_string(own.h) +
                       ", and the first one '" + first + "' is " + std::to_string(shape.w) + " x " + std::to_string(shape.h) +
                       "; make all pictures of one size, or have them scaled with --image-size");
}

// Per channel, of pixel / 255, over at most so many pictures, evenly spaced. The sums are whole numbers: the same bits in whatever order.
constexpr int64_t most_described = 5000;
void describe(const PictureFiles& files, Dataset& dataset) {
  struct Sums {
    uint64_t pixels = 0, values[3] = {}, squares[3] = {};
    std::exception_ptr failure;
  };
  const int64_t count = std::min(files.size(), most_described);
  std::vector<Sums> sums(static_cast<size_t>(count));
  parallel(count, 16, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> room;
    for (int64_t i = begin; i < end; ++i) try {
        const PictureView picture = files.picture(i * files.size() / count, room);
        Sums& of = sums[size_t(i)];
        of.pixels = uint64_t(picture.shape.count() / 3);
        for (int64_t j = 0; j < picture.shape.count(); ++j) {
          const uint64_t value = picture.pixels[j];
          of.values[j % 3] += value, of.squares[j % 3] += value * value;
        }
      } catch (...) {
        sums[size_t(i)].failure = std::current_exception();
      }
  });
  Sums all;
  for (const Sums& of : sums) {
    if (of.failure) std::rethrow_exception(of.failure);
    all.pixels += of.pixels;
    for (int c = 0; c < 3; ++c) all.values[c] += of.values[c], all.squares[c] += of.squares[c];
  }
  for (int c = 0; c < 3; ++c) {
    const double count_of = double(all.pixels), mean = double(all.values[c]) / count_of;
    const double variance = double(all.squares[c]) / count_of - mean * mean;
    dataset.mean.push_back(float(mean / 255));
    // A channel that never changes becomes 0, not something divided by nothing.
    dataset.deviation.push_back(variance > 1e-6 ? float(std::sqrt(variance) / 255) : 1);
  }
}

}  // namespace

Dataset dataset_of(std::vector<ClassFile> training, std::vector<ClassFile> testing, const DataOptions& options, Dataset dataset) {
  const int64_t size = options.image_size, resize = options.resize > 0 ? options.resize : size;
  // Scaling that halves a picture at least hides what a decoder does that makes it smaller.
  const Decoding decoding{options.orientation, 2 * resize};
  const auto room = std::make_shared<CacheRoom>(options.cache);
  const auto train = std::make_shared<PictureFiles>(std::move(training), decoding, options.bad_samples, room);
  const auto test = std::make_shared<PictureFiles>(std::move(testing), decoding, options.bad_samples, room);
  dataset.image = size > 0 ? Shape{1, size, size, 3} : train->shape(0);
  if (size == 0) check_shapes(*train, dataset.image, train->path(0)), check_shapes(*test, dataset.image, train->path(0));
  // What is kept may as well be decoded now, so that damage is found; what is to be left out must be.
  const bool fits = train->decoded_bytes() + test->decoded_bytes() <= options.cache;
  if (fits || options.bad_samples == BadSamples::skip) train->check_all(), test->check_all();
  dataset.skipped = train->skipped() + test->skipped();
  if (const int64_t turned = train->turned() + test->turned(); turned > 0)
    dataset.notes.push_back(
        "pictures whose EXIF data say that they are stored turned or mirrored: " + std::to_string(turned) +
        (options.orientation == Orientation::apply ? ", turned upright" : ", taken as stored; --orientation apply turns them upright"));
  if (dataset.mean.empty()) describe(*train, dataset);
  dataset.train = picture_samples(train, dataset.image, resize, dataset.mean, dataset.deviation);
  dataset.test = picture_samples(test, dataset.image, resize, dataset.mean, dataset.deviation);
  return dataset;
}

}  // namespace pipecast
