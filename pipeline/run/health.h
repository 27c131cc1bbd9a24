#pragma once
// Values that are not finite (an infinity or a NaN): what a run does about them, and the search for the layer that made the first.
//
// Every stage checks what a pass has made before another stage reads it: the outputs of a forward and the loss, the gradients that a
// backward sends, and the gradient of the weights before the update. So the first stage that finds such a value has made it. Only then the
// pass runs once more, and what each node makes is checked.
#include <string>
#include <vector>

#include "engine/memory.h"
#include "optim/gradient_norm.h"
#include "pipeline/run/section.h"

namespace pipecast {

enum class NonFinite {
  stop,  // the run ends before the update that would use it
  skip,  // a stage whose gradient is not finite skips the update, which is counted as done
};
NonFinite non_finite_mode(const std::string& name);  // throws UsageError
std::string to_string(NonFinite);
std::vector<std::string> non_finite_modes();

// Where a training met a value that is not finite, or a loss that is too large.
struct Fault {
  int64_t minibatch = 0;  // from 0, over the whole training
  int stage = -1;         // -1: no particular stage (a loss that grew too large); the fields below are then unused
  int micro = 0;
  std::string direction = {};  // "forward", "backward", or "recomputed forward"
  std::string layer = {};      // empty: no layer made the value, for example an input of the model
};

// Training cannot go on; the sentence says where it failed and what may help.
struct Diverged : Error {
  Diverged(const std::string& sentence, Fault f) : Error(sentence), fault(std::move(f)) {}
  Fault fault;
};

// Whether values on a stage's device are finite.
class Health {
 public:
  explicit Health(Device device) : device_(device), sums_(device, square_sum_floats) {}

  // Adds values to those that the next finite() checks.
  template <class T>
  void look_at(int64_t n, const T* x);
  void look_at(const Tensor&);
  // Whether all values that look_at() was given since the last call are finite. Waits for the device, unless there were none.
  bool finite();
  double square_sum(int64_t n, const float* x);  // of x; waits for the device

 private:
  Device device_;
  Memory sums_;          // see optim/gradient_norm.h
  bool looked_ = false;  // at something, since the last finite()
};

// Finds the first value in a pass that is not finite. As the Visit of a Section's pass it checks the nodes in the order in which they run.
class Search {
 public:
  explicit Search(Health& health) : health_(health) {}

  void operator()(const Layer&, const Pass&);
  // Checks values that no layer made. `what` continues a sentence, as in "stage 0 was given a sample that is not finite".
  void look_at(const std::string& what, int64_t n, const float* x);
  void look_at(const std::string& what, const Tensor&);
  // The exception to throw. `pass`: the fault without its layer. Where nothing was found, every value is finite, but a sum of them is not.
  Diverged error(Fault pass, int micro_batches) const;

 private:
  void finish(const std::string& what);
  template <class... Values>
  void look_at(const Layer&, const std::string& what, const Values&...);

  Health& health_;
  bool found_ = false;
  std::string layer_, what_;
};

}  // namespace pipecast
