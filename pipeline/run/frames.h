#pragma once
// Places for passes in flight, found by the pass.
#include <string>
#include <vector>

#include "engine/error.h"
#include "pipeline/program.h"

namespace pipecast {

class Frames {
 public:
  // `what` continues a sentence: "activation frames of stage 2".
  Frames(int count, std::string what) : places_(size_t(count)), what_(std::move(what)) {}

  int count() const { return int(places_.size()); }
  // A free place, for this pass from now on. Throws Error where none is free.
  int take(const Tag& pass) {
    for (size_t k = 0; k < places_.size(); ++k)
      if (!places_[k].used) return places_[k] = {true, pass}, int(k);
    throw Error("none of the " + std::to_string(places_.size()) + " " + what_ + " is free for " + to_string(pass));
  }
  // The place of this pass. Throws Error where it has none.
  int find(const Tag& pass) const {
    for (size_t k = 0; k < places_.size(); ++k)
      if (places_[k].used && places_[k].pass == pass) return int(k);
    throw Error("none of the " + std::to_string(places_.size()) + " " + what_ + " holds " + to_string(pass));
  }
  void release(int place) { places_[size_t(place)].used = false; }
  void clear() { places_.assign(places_.size(), {}); }

 private:
  struct Place {
    bool used = false;
    Tag pass;
  };
  std::vector<Place> places_;
  std::string what_;
};

}  // namespace pipecast
