#pragma once
// The copies of the weights of one stage, as an audit follows them: what each holds, and whether that is what its readers expect.
#include <map>
#include <optional>
#include <string>

#include "pipeline/program.h"

namespace pipecast {

// What is wrong with the instruction at hand, or with the one at `position`.
struct CopyFault {
  std::string what;
  std::optional<size_t> position = {};
};

// All throw CopyFault. `position` is that of the instruction in its program.
class AuditedCopies {
 public:
  // most_copies: 0: any number.
  explicit AuditedCopies(int most_copies) : most_copies_(most_copies) {}

  int64_t updates() const { return updates_; }
  void step() { ++updates_; }
  void predict(size_t position, const Instruction&);
  void stash(size_t position, const Instruction&);
  // What a pass reads.
  struct Content {
    size_t position = 0;  // of the instruction that wrote it
    int64_t version = 0;  // updates in the weights, or in those that it was predicted from
    int ahead = 0, back = 0;
    bool read = false;
    bool predicted = false;
  };
  Content read(const Instruction&);
  // At the end of the program: everything was read.
  void check_all_read() const;

 private:
  const Content& read_stash(const Instruction&);
  const Content& read_prediction(const Instruction&);
  void check_count() const;

  int most_copies_;
  int64_t updates_ = 0;
  std::optional<Content> prediction_;
  std::map<int, Content> stash_;  // by slot
};

}  // namespace pipecast
