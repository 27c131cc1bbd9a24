#pragma once
// A one-way channel between two stages. A message is a list of tensors and says which pass it belongs to.
#include <span>

#include "engine/device.h"
#include "engine/tensor.h"
#include "pipeline/program.h"

namespace pipecast {

class Link {
 public:
  virtual ~Link() = default;
  // Whether the call would go on without waiting: the sequential executor asks before it calls.
  virtual bool can_send() = 0;
  virtual bool can_receive() = 0;
  // Until it would; what send and receive do first. A trace tells the two apart.
  virtual void wait_to_send() = 0;
  virtual void wait_to_receive() = 0;
  // Waits for a free place, then hands the tensors over; work given to the device afterwards may overwrite them.
  virtual void send(Device, Tag, std::span<const Tensor>) = 0;
  // Waits for the next message and has it copied into the tensors, for work given to the device afterwards. Throws Error where it
  // belongs to another pass.
  virtual void receive(Device, Tag, std::span<const Tensor>) = 0;
  // After the failure of a stage: a stage that waits, or calls later, gets an Error.
  virtual void close() = 0;
};

}  // namespace pipecast
