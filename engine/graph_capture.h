#pragma once
// CUDA graphs: work that is repeated with the same arguments is recorded once, and then replayed by a single call. A pass of a small
// network is hundreds of short kernels, and a GPU may finish one before the host has launched the next.
#include <cstddef>
#include <map>
#include <memory>
#include <utility>

#include "engine/device.h"

namespace pipecast {

// Records work instead of giving it to the device.
class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual void begin() = 0;
  virtual size_t end() = 0;             // ends the recording that begin() began and returns its number: 0, 1, 2, ...
  virtual void abandon() noexcept = 0;  // instead of end(), where the work failed
  virtual void replay(size_t number) = 0;
};

// For the device's stream; null on the host, which has nothing to gain. Only the thread that calls begin() may give work to that stream
// until end(). Must not outlive the device.
std::unique_ptr<Recorder> make_recorder(Device);

// Recordings by key. Work of the same key must launch the same kernels with the same arguments every time; what changes from one time to
// the next must be in device memory. It must neither wait for the device nor use memory of the host.
template <class Key>
class Replays {
 public:
  // Without a recorder all work is given to the device as it comes.
  explicit Replays(std::unique_ptr<Recorder> recorder = nullptr) : recorder_(std::move(recorder)) {}

  template <class Work>
  void run(const Key& key, const Work& work) {
    if (!recorder_) return work();
    const auto [place, first] = records_.try_emplace(key, none);
    // The first time, libraries load code and allocate memory, which cannot be recorded.
    if (first) return work();
    if (place->second == none) place->second = record(work);
    recorder_->replay(place->second);
  }

 private:
  static constexpr size_t none = size_t(-1);

  template <class Work>
  size_t record(const Work& work) {
    recorder_->begin();
    try {
      work();
    } catch (...) {
      recorder_->abandon();
      throw;
    }
    return recorder_->end();
  }

  std::unique_ptr<Recorder> recorder_;
  std::map<Key, size_t> records_;
};

}  // namespace pipecast
