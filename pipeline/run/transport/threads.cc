#include "pipeline/run/transport/threads.h"

#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/memory.h"

namespace pipecast {
namespace {

// A channel: a ring of slots, each with room for the largest message. One thread sends and one receives.
class Mailbox {
 public:
  explicit Mailbox(const ChannelMemory& m)
      : capacity_(m.capacity), slot_floats_(m.floats), memory_(m.device, m.floats * m.capacity), slots_(size_t(m.capacity)) {
    for (Slot& slot : slots_) slot.filled = Event(m.device), slot.emptied = Event(m.device);
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

  // The sender alone changes sent_, the receiver alone received_, so a slot that is free or full stays so while it is copied. On a GPU the
  // counts are those of copies that were put on a stream, and may not have run: the slot's events make the other stream wait for them.
  void send(Device device, Tag tag, std::span<const Tensor> tensors) {
    wait_to_send();
    Slot& slot = slot_of(sent_);
    require_room(tensors);
    slot.emptied.hold_back(device);
    float* to = floats_of(sent_);
    for (const Tensor& t : tensors) {
      copy(device, to, t.data, t.bytes());
      to += aligned(t.floats());
    }
    slot.filled.set(device);
    slot.tag = tag;
    std::lock_guard lock(mutex_);
    ++sent_;
    changed_.notify_one();  // one is enough: sender and receiver never wait at the same time
  }

  void receive(Device device, Tag tag, std::span<const Tensor> tensors) {
    wait_to_receive();
    Slot& slot = slot_of(received_);
    if (slot.tag != tag)
      throw Error("a stage expected the message of " + to_string(tag) + " and got that of " + to_string(slot.tag) +
                  ": the stages' programs do not match");
    require_room(tensors);
    slot.filled.hold_back(device);
    const float* from = floats_of(received_);
    for (const Tensor& t : tensors) {
      copy(device, t.data, from, t.bytes());
      from += aligned(t.floats());
    }
    slot.emptied.set(device);
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
  struct Slot {
    Tag tag;
    Event filled;   // the sender's copies into it are done
    Event emptied;  // the receiver's copies out of it are done
  };

  template <class Ready>
  void wait(Ready ready) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || ready(); });
    if (closed_) throw Error("another stage failed, and the run was stopped");
  }

  // message: its number, counted from 0.
  Slot& slot_of(int64_t message) { return slots_[size_t(message % capacity_)]; }
  float* floats_of(int64_t message) const { return memory_.data() + message % capacity_ * slot_floats_; }
  void require_room(std::span<const Tensor> tensors) const {
    int64_t floats = 0;
    for (const Tensor& t : tensors) floats += aligned(t.floats());
    if (floats > slot_floats_)
      throw Error("a message of " + std::to_string(floats) + " floats does not fit the channel's slots of " + std::to_string(slot_floats_));
  }

  int64_t capacity_, slot_floats_;
  Memory memory_;  // of the slots, one after another
  std::vector<Slot> slots_;
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
