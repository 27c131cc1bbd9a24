#pragma once
// Values that are not finite (an infinity, or no number): what a run does about them, and the search for the layer that made the first.
//
// Every stage looks at what a pass has made before anybody else reads it: the forward's outputs and the loss, the backward's gradients at
// the border, and the gradient before the update. So the first stage that finds such a value is the one that made it, and only then that pass
// runs once more, with a look at what each node makes.
#include <string>
#include <vector>

#include "engine/memory.h"
#include "optim/gradient_norm.h"
#include "pipeline/run/section.h"

namespace pipecast {

enum class NonFinite {
  stop,  // the run ends before the update that would use it
  skip,  // the stages whose gradient is not finite leave their update out; it counts as done
};
NonFinite non_finite_mode(const std::string& name);  // throws UsageError
std::string to_string(NonFinite);
std::vector<std::string> non_finite_modes();

// Where a training ceased to be of use.
struct Fault {
  int64_t minibatch = 0;  // from 0, over the whole training
  int stage = -1;         // -1: not one stage's, as a loss that grew too large; the fields below then say nothing
  int micro = 0;
  std::string direction = {};  // "forward", "backward", or "recomputed forward"
  std::string layer = {};      // empty: no layer's, as an input of the model
};

// The training came to nothing; the sentence says where and what may help.
struct Diverged : Error {
  Diverged(const std::string& sentence, Fault f) : Error(sentence), fault(std::move(f)) {}
  Fault fault;
};

// Whether values on a stage's device are finite.
class Health {
 public:
  explicit Health(Device device) : device_(device), sums_(device, square_sum_floats) {}

  // Adds values to those that finite() is about.
  template <class T>
  void look_at(int64_t n, const T* x);
  void look_at(const Tensor&);
  // Whether all are that were looked at since the last call. Waits for the device, unless there are none.
  bool finite();
  double square_sum(int64_t n, const float* x);  // of x; waits for the device

 private:
  Device device_;
  Memory sums_;          // see optim/gradient_norm.h
  bool looked_ = false;  // at something, since the last finite()
};

// The first value in a pass that is not finite. Given to Section's passes, it looks at the nodes in the order in which they run.
class Search {
 public:
  explicit Search(Health& health) : health_(health) {}

  void operator()(const Layer&, const Pass&);
  // Looks at what no layer made. `what` continues a sentence, as in "stage 0 was given a sample that is not finite".
  void look_at(const std::string& what, int64_t n, const float* x);
  void look_at(const std::string& what, const Tensor&);
  // To be thrown. `pass`: all of the fault but the layer. Where nothing was found every value is finite by itself, but their sum is not.
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
