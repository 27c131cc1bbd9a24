#pragma once
// How messages get from stage to stage. A channel has two ends: the stage that sends holds a Sender, the stage that receives a Receiver. A
// message is a list of tensors and says which pass it belongs to.
#include <memory>
#include <span>

#include "engine/device.h"
#include "engine/tensor.h"
#include "pipeline/program.h"

namespace pipecast {

// After close() of the transport, what waits or is called later throws Error.
class Sender {
 public:
  virtual ~Sender() = default;
  // Whether send() would go on without waiting. The sequential executor asks before it calls.
  virtual bool ready() = 0;
  // Until it would. send() does this first; a trace tells waiting and copying apart.
  virtual void wait() = 0;
  // Waits for a free place, then hands the tensors over. Work given to the device afterwards may overwrite them.
  virtual void send(Device, Tag, std::span<const Tensor>) = 0;
};

class Receiver {
 public:
  virtual ~Receiver() = default;
  virtual bool ready() = 0;
  virtual void wait() = 0;
  // Waits for the next message and has it copied into the tensors, for work given to the device afterwards. Throws Error where the message
  // belongs to another pass.
  virtual void receive(Device, Tag, std::span<const Tensor>) = 0;
};

// The ends of a channel. One is null where its stage belongs to another process.
struct Ends {
  std::unique_ptr<Sender> sender;
  std::unique_ptr<Receiver> receiver;
};

// What a transport must know of a channel.
struct ChannelMemory {
  Device device;        // of the places where messages wait
  int64_t floats = 0;   // of the largest message, each of its tensors rounded up to aligned()
  int capacity = 2;     // messages that were sent and not yet received, at most
};

class Transport {
 public:
  virtual ~Transport() = default;
  // Takes all memory that the channel needs. `channel`: its number in Channels::all(). The ends must not outlive the transport.
  virtual Ends connect(int channel, const ChannelMemory&) = 0;
  // After the failure of a stage. Thread-safe.
  virtual void close() = 0;
};

}  // namespace pipecast
