#include "data/picture_files.h"

#include <algorithm>
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
constexpr uint64_t beginning = 4096;   // bytes of a file that the digest knows
constexpr uint64_t header = 1 << 16;   // bytes that nearly all headers end within

}  // namespace

PictureFiles::PictureFiles(std::vector<ClassFile> files, const Decoding& decoding, BadSamples bad_samples, std::shared_ptr<CacheRoom> room)
    : decoding_(decoding), bad_samples_(bad_samples), room_(std::move(room)) {
  for (ClassFile& file : files) files_.push_back({.path = std::move(file.path), .label = file.label});
  check_each([&](File& file, size_t) {
    std::vector<uint8_t> bytes = read_beginning(file.path, header, file.bytes);
    file.hash = hash64(bytes.data(), std::min(bytes.size(), size_t(beginning)));
    PictureFormat format;
    try {
      format = picture_format(text_of(bytes), file.path, decoding_, file.bytes > bytes.size());
    } catch (const UsageError&) {
      if (file.bytes == bytes.size()) throw;
      bytes = read_file(file.path, most_picture_bytes);
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
  std::set<int32_t> labels;
  std::vector<std::atomic<const uint8_t*>> kept(kept_.size());
  size_t good = 0;
  for (size_t i = 0; i < files_.size(); ++i) {
    if (!files_[i].damage.empty() && bad_samples_ == BadSamples::fail) throw UsageError(files_[i].damage);
    if (!files_[i].damage.empty()) continue;
    labels.insert(files_[i].label);
    if (!kept.empty()) kept[good] = kept_[i].exchange(nullptr);
    if (good < i) std::swap(files_[good], files_[i]);
    ++good;
  }
  if (good == 0) throw UsageError("all " + std::to_string(files_.size()) + " pictures are damaged; the first: " + files_.front().damage);
  // A class that lost all of its pictures would leave the model without it, and nobody would know.
  for (size_t i = good; i < files_.size(); ++i)
    if (!labels.contains(files_[i].label))
      throw UsageError("all pictures of the class of '" + files_[i].path + "' are damaged; mend them or take the class's folder out");
  skipped_ += int64_t(files_.size() - good);
  files_.resize(good);
  kept_.swap(kept);
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

}  // namespace pipecast
