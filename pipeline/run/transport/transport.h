#pragma once
// How messages get from stage to stage. A channel has two ends: the stage that sends holds a Sender, the stage that receives a Receiver. A
// message is a list of tensors and the tag of the pass that it is for.
#include <memory>
#include <span>

#include "engine/device.h"
#include "engine/tensor.h"
#include "pipeline/program.h"

namespace pipecast {

// After Transport::close(), wait(), send() and receive() throw Error, also where they wait already; ready() returns true, so that its
// caller goes on and meets the error.
class Sender {
 public:
  virtual ~Sender() = default;
  // Whether send() would not have to wait. The sequential executor asks before it calls.
  virtual bool ready() = 0;
  // Blocks until ready(). send() does the same; a caller that times waiting and copying separately calls this first.
  virtual void wait() = 0;
  // Waits until ready(), then puts the copies of the tensors on the device's stream. Work that is given to the device after the call may
  // overwrite the tensors.
  virtual void send(Device, Tag, std::span<const Tensor>) = 0;
};

class Receiver {
 public:
  virtual ~Receiver() = default;
  virtual bool ready() = 0;
  virtual void wait() = 0;
  // Waits for the next message, then puts the copies into the tensors on the device's stream: work that is given to the device after the
  // call reads the message. Throws Error where the message is for another pass.
  virtual void receive(Device, Tag, std::span<const Tensor>) = 0;
};

// The ends of a channel. A transport between processes leaves the end null whose stage is in another process.
struct Ends {
  std::unique_ptr<Sender> sender;
  std::unique_ptr<Receiver> receiver;
};

// What a transport must know of a channel.
struct ChannelMemory {
  Device device;       // where messages wait
  int64_t floats = 0;  // of the largest message, each of its tensors rounded up to aligned()
  int capacity = 2;    // the largest number of messages that were sent and not yet received
};

class Transport {
 public:
  virtual ~Transport() = default;
  // Allocates all memory that the channel needs. channel: its index in Channels::all(). The ends must not outlive the transport.
  virtual Ends connect(int channel, const ChannelMemory&) = 0;
  // Called when a stage has failed. Thread-safe.
  virtual void close() = 0;
};

}  // namespace pipecast
