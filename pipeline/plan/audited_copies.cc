#include "pipeline/plan/audited_copies.h"

namespace pipecast {
namespace {

void check_read(const AuditedCopies::Content& content, const std::string& what) {
  if (!content.read) throw CopyFault{"no pass reads what it " + what, content.position};
}

// "2 ahead", "2 updates back".
std::string distance(int ahead, int back, const std::string& unit = " ") {
  return std::to_string(back ? back : ahead) + unit + (back ? "back" : "ahead");
}

}  // namespace

void AuditedCopies::predict(size_t position, const Instruction& i) {
  if (prediction_) check_read(*prediction_, "predicts");
  prediction_ = Content{.position = position, .version = updates_, .ahead = i.ahead, .back = i.back, .predicted = true};
  check_count();
}

void AuditedCopies::stash(size_t position, const Instruction& i) {
  if (i.slot < 0) throw CopyFault{"the slot is below 0"};
  if (i.reads == Reads::stash) throw CopyFault{"it can copy the latest or the predicted weights, not a slot of the stash"};
  if (i.reads == Reads::predicted && !prediction_) throw CopyFault{"nothing has been predicted"};
  if (const auto before = stash_.find(i.slot); before != stash_.end()) check_read(before->second, "stashes");
  Content content{.version = updates_};
  if (i.reads == Reads::predicted) {
    prediction_->read = true;
    content = *prediction_;
  }
  content.position = position, content.read = false;
  stash_[i.slot] = content;
  check_count();
}

void AuditedCopies::check_count() const {
  const int copies = 1 + (prediction_ ? 1 : 0) + (stash_.empty() ? 0 : stash_.rbegin()->first + 1);
  if (most_copies_ > 0 && copies > most_copies_)
    throw CopyFault{"it needs copy number " + std::to_string(copies) + " of the weights, and at most " + std::to_string(most_copies_) +
                    " may be kept"};
}

AuditedCopies::Content AuditedCopies::read(const Instruction& i) {
  switch (i.reads) {
    case Reads::latest: break;
    case Reads::predicted: return read_prediction(i);
    case Reads::stash: return read_stash(i);
  }
  return {.version = updates_};
}

const AuditedCopies::Content& AuditedCopies::read_stash(const Instruction& i) {
  const std::string slot = "slot " + std::to_string(i.slot) + " of the stash";
  const auto found = stash_.find(i.slot);
  if (found == stash_.end()) throw CopyFault{"it reads " + slot + ", where nothing has been put"};
  Content& content = found->second;
  if (updates_ - content.version != i.age)
    throw CopyFault{"it reads " + slot + " for weights of " + std::to_string(i.age) + " updates before, and it holds those of " +
                    std::to_string(updates_ - content.version)};
  if (content.ahead != i.ahead || content.back != i.back)
    throw CopyFault{"it reads " + slot + " for weights predicted " + distance(i.ahead, i.back, " updates ") + ", and it holds " +
                    distance(content.ahead, content.back)};
  content.read = true;
  return content;
}

const AuditedCopies::Content& AuditedCopies::read_prediction(const Instruction& i) {
  if (!prediction_ || updates_ - prediction_->version != i.age)
    throw CopyFault{i.age == 0 ? "it reads predicted weights and none were predicted since the last step"
                               : "it reads weights predicted " + std::to_string(i.age) + " updates before, and they are not"};
  if (prediction_->ahead != i.ahead || prediction_->back != i.back)
    throw CopyFault{"it reads weights predicted " + distance(i.ahead, i.back, " updates ") + " and the last prediction was " +
                    distance(prediction_->ahead, prediction_->back)};
  prediction_->read = true;
  return *prediction_;
}

void AuditedCopies::check_all_read() const {
  if (prediction_) check_read(*prediction_, "predicts");
  for (const auto& [slot, content] : stash_) check_read(content, "stashes");
}

}  // namespace pipecast
