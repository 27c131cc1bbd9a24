#pragma once
// Labelled pictures in files, decoded when they are asked for. What was decoded is kept while there is room for it.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "data/class_folders.h"
#include "data/picture.h"
#include "data/pictures.h"

namespace pipecast {

// Bytes that are left for decoded pictures, shared by the parts of a data set.
using CacheRoom = std::atomic<int64_t>;

class PictureFiles : public PictureSource {
 public:
  // Reads the header of each file, on all threads. One that cannot be read is refused, or left out and counted.
  PictureFiles(std::vector<ClassFile>, const Decoding&, BadSamples, std::shared_ptr<CacheRoom>);
  ~PictureFiles() override;

  int64_t size() const override { return int64_t(files_.size()); }
  int32_t label(int64_t picture) const override { return files_[size_t(picture)].label; }
  PictureView picture(int64_t picture, std::vector<uint8_t>& room) const override;
  bool decodes() const override { return true; }
  // Labels, sizes of files and a hash of the first bytes of each; how they are decoded.
  void add_to(Sha256&) const override;

  const std::string& path(int64_t picture) const { return files_[size_t(picture)].path; }
  const Shape& shape(int64_t picture) const { return files_[size_t(picture)].shape; }  // decoded
  int64_t skipped() const { return skipped_; }
  int64_t turned() const;         // how many are stored turned or mirrored
  int64_t decoded_bytes() const;  // of all

  // Decodes each once, on all threads, and keeps what there is room for. The first one that is damaged is refused, or those are left out
  // and counted.
  void check_all();

 private:
  struct File {
    std::string path;
    int32_t label;
    Shape shape = {};
    int orientation = 1;
    uint64_t bytes = 0, hash = 0;  // of the file; of its beginning
    std::string damage = {};       // a sentence, while files are checked
  };

  // Calls check(file) for each, on all threads; what it refuses is damaged.
  template <class F>
  void check_each(const F& check);
  std::vector<uint8_t> decoded(const File&) const;

  Decoding decoding_;
  BadSamples bad_samples_;
  std::vector<File> files_;
  int64_t skipped_ = 0;
  std::shared_ptr<CacheRoom> room_;
  mutable std::vector<std::atomic<const uint8_t*>> kept_;  // pixels, by picture; nothing where they are not kept
};

// The data set of these files. `dataset` has its name, the number of its classes, notes, and its mean and deviation where it is known by
// some; otherwise they are those of the training pictures.
Dataset dataset_of(std::vector<ClassFile> training, std::vector<ClassFile> testing, const DataOptions&, Dataset dataset);

}  // namespace pipecast
