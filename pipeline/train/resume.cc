#include "pipeline/train/resume.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/format.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

constexpr int description_format = 2;  // of a checkpoint's description; 1 had another digest of the data set

// Options with which a run may go on otherwise than it began. Where the data lies may change, what they are may not: see
// RunOrigin::identity.
constexpr const char* alterable[] = {"epochs",     "data",      "stages", "partition", "cut-layers", "chunks",           "recompute",
                                     "eval-every", "log-every", "device", "executor",  "threads",    "checkpoint-every", "checkpoint-keep",
                                     "stop-above", "patience",  "cache"};

const Change* find(const std::vector<Change>& changes, const std::string& option) {
  const auto found = std::find_if(changes.begin(), changes.end(), [&](const Change& change) { return change.option == option; });
  return found == changes.end() ? nullptr : &*found;
}

}  // namespace

Json description(const RunOrigin& origin) {
  Json options = Json::object();
  for (const auto& [name, value] : origin.options) options[name] = value;
  return {{"format", description_format}, {"version", origin.version}, {"options", options}, {"identity", Json::parse(origin.identity)}};
}

Json description(const Checkpoint& checkpoint) {
  Json description = Json::parse(checkpoint.description, nullptr, false);
  if (!description.is_object() || description.value("format", Json()) != description_format)
    throw UsageError(
        format("the checkpoint of mini-batch %lld was not written by this version of pipecast: resume with the one that began "
               "the run",
               (long long)(checkpoint.minibatch)));
  return description;
}

void check_identity(const Json& before, const Json& now) {
  Mistakes mistakes;
  for (const auto& [key, value] : now.items())
    if (before.value(key, Json()) != value)
      mistakes.add("the run goes on with what it began with; " + key + ": " + before.value(key, Json()).dump() + " then, " + value.dump() +
                   " now");
  mistakes.report();
}

std::vector<Change> changes(const Json& before, const NamedValues& now) {
  std::vector<Change> changes;
  Mistakes mistakes;
  for (const auto& [name, value] : now) {
    const Change change{name, before.value(name, value), value};
    if (change.before == change.now) continue;
    if (std::find(std::begin(alterable), std::end(alterable), name) == std::end(alterable))
      mistakes.add("option --" + name + " is '" + change.before + "' in the run and '" + change.now +
                   "' now: a run goes on as it began; leave it out, or begin a run with --out");
    changes.push_back(change);
  }
  mistakes.report();
  return changes;
}

std::string why_not_identical(const std::vector<Change>& changes, const TrainerOptions& options, bool synchronous, bool at_stop) {
  std::vector<std::string> reasons;
  auto before = [&](const std::string& option, int now) {
    const Change* change = find(changes, option);
    return change ? std::stoi(change->before) : now;
  };
  const int stages = options.stages, threads = options.threads;
  const int share = std::max(1, threads / stages), share_before = std::max(1, before("threads", threads) / before("stages", stages));
  if (share != share_before)
    reasons.push_back("each stage computes with " + std::to_string(share) + " threads, not " + std::to_string(share_before));
  if (find(changes, "device")) reasons.push_back("another device rounds otherwise");
  const bool cut_otherwise =
      find(changes, "stages") || find(changes, "partition") || find(changes, "cut-layers") || find(changes, "chunks");
  if (cut_otherwise && !synchronous) reasons.push_back("what an asynchronous method computes depends on the partition");
  else if (cut_otherwise && options.clip_norm > 0) reasons.push_back("the gradient's norm is added up in another order");
  const std::string& schedule = options.schedule.name;
  if (find(changes, "epochs") && (schedule == "cosine" || schedule == "polynomial"))
    reasons.push_back("the learning rates of schedule " + schedule + " depend on --epochs");
  if (!synchronous && (find(changes, "eval-every") || find(changes, "checkpoint-every") || !at_stop))
    reasons.push_back("the pipeline drains at other mini-batches");
  std::string text;
  for (const std::string& reason : reasons) text += (text.empty() ? "" : "; ") + reason;
  return text;
}

}  // namespace pipecast
