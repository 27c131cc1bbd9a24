#include "pipeline/run/transport/local.h"

#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/memory.h"

namespace pipecast {
namespace {

class LocalLink : public Link {
 public:
  LocalLink(Device device, int64_t floats, int capacity)
      : capacity_(capacity), floats_(floats), memory_(device, floats * capacity), places_(size_t(capacity)) {
    for (Place& place : places_) place.full = Event(device), place.free = Event(device);
  }

  bool can_send() override {
    std::lock_guard lock(mutex_);
    return closed_ || sent_ - received_ < capacity_;
  }
  bool can_receive() override {
    std::lock_guard lock(mutex_);
    return closed_ || sent_ > received_;
  }
  void wait_to_send() override {
    wait([this] { return sent_ - received_ < capacity_; });
  }
  void wait_to_receive() override {
    wait([this] { return sent_ > received_; });
  }

  // Only one thread sends and only one receives, so a place that was found free or full stays so while it is copied. On a GPU it was
  // found so of work that may not have run yet: the place's events put the two streams' copies in order, and no thread waits for them.
  void send(Device device, Tag tag, std::span<const Tensor> tensors) override {
    wait_to_send();
    Place& place = place_of(sent_);
    float* to = memory_.data() + sent_ % capacity_ * floats_;
    place.free.hold_back(device);
    for (const Tensor& t : tensors) copy(device, to, t.data, t.bytes()), to += aligned(t.floats());
    place.full.set(device);
    place.tag = tag;
    std::lock_guard lock(mutex_);
    ++sent_;
    changed_.notify_one();
  }

  void receive(Device device, Tag tag, std::span<const Tensor> tensors) override {
    wait_to_receive();
    Place& place = place_of(received_);
    if (place.tag != tag)
      throw Error("a stage expected the message of " + to_string(tag) + " and got that of " + to_string(place.tag) +
                  ": the stages' programs do not match");
    const float* from = memory_.data() + received_ % capacity_ * floats_;
    place.full.hold_back(device);
    for (const Tensor& t : tensors) copy(device, t.data, from, t.bytes()), from += aligned(t.floats());
    place.free.set(device);
    std::lock_guard lock(mutex_);
    ++received_;
    changed_.notify_one();
  }

  void close() override {
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  struct Place {
    Tag tag;
    Event full, free;  // its message has been copied into it; out of it
  };

  template <class Ready>
  void wait(Ready ready) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || ready(); });
    if (closed_) throw Error("the neighbouring stage stopped");
  }

  Place& place_of(int64_t message) { return places_[size_t(message % capacity_)]; }

  int64_t capacity_, floats_;
  Memory memory_;  // of the places, one after another
  std::vector<Place> places_;
  int64_t sent_ = 0, received_ = 0;
  bool closed_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace

std::unique_ptr<Link> local_link(Device device, int64_t floats, int capacity) {
  return std::make_unique<LocalLink>(device, floats, capacity);
}

}  // namespace pipecast
