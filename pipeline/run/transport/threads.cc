#include "pipeline/run/transport/threads.h"

#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/memory.h"

namespace pipecast {
namespace {

// A channel: as many places in memory as messages may be under way, taken in advance, and a condition variable.
class Mailbox {
 public:
  explicit Mailbox(const ChannelMemory& m)
      : capacity_(m.capacity), floats_(m.floats), memory_(m.device, m.floats * m.capacity), places_(size_t(m.capacity)) {
    for (Place& place : places_) place.full = Event(m.device), place.free = Event(m.device);
  }

  bool can_send() {
    std::lock_guard lock(mutex_);
    return closed_ || sent_ - received_ < capacity_;
  }
  bool can_receive() {
    std::lock_guard lock(mutex_);
    return closed_ || sent_ > received_;
  }
  void wait_to_send() {
    wait([this] { return sent_ - received_ < capacity_; });
  }
  void wait_to_receive() {
    wait([this] { return sent_ > received_; });
  }

  // Only one thread sends and only one receives, so a place that was found free or full stays so while it is copied. On a GPU it was
  // found so of work that may not have run yet: the place's events put the two streams' copies in order, and no thread waits for them.
  void send(Device device, Tag tag, std::span<const Tensor> tensors) {
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

  void receive(Device device, Tag tag, std::span<const Tensor> tensors) {
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

  void close() {
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

class MailboxSender : public Sender {
 public:
  explicit MailboxSender(Mailbox& mailbox) : mailbox_(mailbox) {}
  bool ready() override { return mailbox_.can_send(); }
  void wait() override { mailbox_.wait_to_send(); }
  void send(Device device, Tag tag, std::span<const Tensor> tensors) override { mailbox_.send(device, tag, tensors); }

 private:
  Mailbox& mailbox_;
};

class MailboxReceiver : public Receiver {
 public:
  explicit MailboxReceiver(Mailbox& mailbox) : mailbox_(mailbox) {}
  bool ready() override { return mailbox_.can_receive(); }
  void wait() override { mailbox_.wait_to_receive(); }
  void receive(Device device, Tag tag, std::span<const Tensor> tensors) override { mailbox_.receive(device, tag, tensors); }

 private:
  Mailbox& mailbox_;
};

class ThreadsTransport : public Transport {
 public:
  Ends connect(int /*channel*/, const ChannelMemory& memory) override {
    Mailbox& mailbox = *mailboxes_.emplace_back(std::make_unique<Mailbox>(memory));
    return {std::make_unique<MailboxSender>(mailbox), std::make_unique<MailboxReceiver>(mailbox)};
  }
  void close() override {
    for (auto& mailbox : mailboxes_) mailbox->close();
  }

 private:
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;
};

}  // namespace

std::unique_ptr<Transport> threads_transport() { return std::make_unique<ThreadsTransport>(); }

}  // namespace pipecast
