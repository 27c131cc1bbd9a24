#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/files/json_reader.h"
#include "pipeline/limits.h"
#include "pipeline/measure/plan.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

int64_t bytes(int64_t floats) { return floats * int64_t(sizeof(float)); }

void add_stage(Json& json, const PlannedStage& stage, const StageCosts& costs) {
  const Stage::MemoryUse& m = stage.memory;
  Json chunks = Json::array();
  for (const ChunkCosts& chunk : costs.chunks)
    chunks.push_back({{"forward_seconds", chunk.forward},
                      {"backward_seconds", chunk.backward},
                      {"input_half_seconds", chunk.input_half},
                      {"weight_half_seconds", chunk.weight_half},
                      {"activation_bytes", chunk.activation_bytes},
                      {"gradient_bytes", chunk.gradient_bytes},
                      {"frame_bytes", chunk.frame_bytes},
                      {"input_bytes", chunk.input_bytes}});
  json["costs"].push_back({{"chunks", chunks},
                           {"step_seconds", costs.step},
                           {"step_and_predict_seconds", costs.step_and_predict},
                           {"predict_seconds", costs.predict},
                           {"stash_seconds", costs.stash},
                           {"weight_bytes", costs.weight_bytes},
                           {"state_bytes", costs.state_bytes},
                           {"arena_bytes", costs.arena_bytes}});
  json["stage_plans"].push_back({{"parameters", stage.parameters},
                                 {"copies", stage.copies},
                                 {"frames", stage.frames},
                                 {"weight_bytes", bytes(m.weights + m.stash)},
                                 {"gradient_bytes", bytes(m.gradient)},
                                 {"state_bytes", bytes(m.state)},
                                 {"frame_bytes", bytes(m.frames)},
                                 {"arena_bytes", bytes(m.arena)},
                                 {"link_bytes", bytes(stage.links)},
                                 {"seconds", stage.seconds}});
}

void leave_out(Json& json, std::initializer_list<const char*> keys) {
  for (const char* key : keys) json.erase(key);
}

void leave_out_times(Json& json) {
  leave_out(json, {"copy_bytes_per_second", "slowest_seconds", "best_partition", "best_seconds", "perfect_seconds", "costs"});
  for (Json& part : json["parts"])
    leave_out(part, {"forward_seconds", "backward_seconds", "input_half_seconds", "weight_half_seconds", "update_seconds"});
  for (Json& stage : json["stage_plans"]) stage.erase("seconds");
}

}  // namespace

std::string plan_json(const Plan& plan) {
  const Setting& setting = plan.run.setting;
  Json json = {{"model", plan.run.model},
               {"method", plan.run.method},
               {"lookahead", to_string(setting.look_ahead)},
               {"stages", setting.stages},
               {"chunks", setting.chunks},
               {"minibatches", setting.minibatches},
               {"micro_batches", setting.micro_batches},
               {"recompute", to_string(setting.recompute)},
               {"batch", plan.run.batch},
               {"copy_bytes_per_second", plan.run.costs.link.copy_bytes_per_second},
               {"partition", plan.partition},
               {"slowest_seconds", plan.slowest},
               {"best_partition", plan.best_partition},
               {"best_seconds", plan.best},
               {"perfect_seconds", plan.perfect},
               {"loader_bytes", bytes(plan.loader)},
               {"memory_bytes", bytes(plan.memory())}};
  for (const PlannedPart& part : plan.parts)
    json["parts"].push_back({{"name", part.name},
                             {"parameters", part.parameters},
                             {"border_bytes", part.border_bytes},
                             {"forward_seconds", part.seconds.forward},
                             {"backward_seconds", part.seconds.backward},
                             {"input_half_seconds", part.seconds.input_half},
                             {"weight_half_seconds", part.seconds.weight_half},
                             {"update_seconds", part.update}});
  for (size_t k = 0; k < plan.stages.size(); ++k) add_stage(json, plan.stages[k], plan.run.costs.stages[k]);
  json["skips"] = Json::array();
  for (const SkipCosts& s : plan.run.costs.skips)
    json["skips"].push_back(
        {{"from", s.skip.from}, {"to", s.skip.to}, {"activation_bytes", s.activation_bytes}, {"gradient_bytes", s.gradient_bytes}});
  if (!plan.timed) leave_out_times(json);
  return json.dump(1);
}

namespace {

const std::string hint = ": write it with 'pipecast plan --json', without --memory-only";
using FoundJson = nlohmann::json;  // finds a key among many without comparing all

// A value of an object, from 0 to what fits with room for sums.
template <class T>
void read(const FoundJson& object, const char* key, T& value, double most) {
  const auto found = object.find(key);
  const bool good =
      found != object.end() && found->is_number() && found->template get<double>() >= 0 && found->template get<double>() <= most;
  if (!good)
    throw UsageError(std::string("the file of costs has no number '") + key + "' from 0 to " + std::to_string(int64_t(most)) + hint);
  found->get_to(value);
}

const FoundJson& list(const FoundJson& object, const char* key) {
  const auto found = object.find(key);
  bool good = found != object.end() && found->is_array();
  if (good) good = std::all_of(found->begin(), found->end(), [](const FoundJson& row) { return row.is_object(); });
  if (!good) throw UsageError(std::string("the file of costs has no list of objects '") + key + "'" + hint);
  return *found;
}

}  // namespace

SimulatedRun read_plan(std::string_view text) {
  using Json = FoundJson;
  const Json json = parse_json(text.data(), text.size(), "the file of costs");
  if (!json.is_object()) throw UsageError("the file of costs is not a JSON object" + hint);
  auto read_text = [&](const char* key) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) throw UsageError(std::string("the file of costs has no text '") + key + "'" + hint);
    return found->get<std::string>();
  };
  SimulatedRun run{.model = read_text("model"), .method = read_text("method"), .setting = {}, .batch = 1, .costs = {}};
  Setting& setting = run.setting;
  setting.look_ahead = look_ahead_mode(read_text("lookahead")), setting.recompute = recompute_mode(read_text("recompute"));
  read(json, "stages", setting.stages, most_stages), read(json, "chunks", setting.chunks, most_chunks);
  read(json, "minibatches", setting.minibatches, most_minibatches), read(json, "micro_batches", setting.micro_batches, most_micro_batches);
  read(json, "batch", run.batch, most_batch), read(json, "copy_bytes_per_second", run.costs.link.copy_bytes_per_second, 1e18);
  const auto read_seconds = [&](const Json& object, const char* key, double& value) { read(object, key, value, 1e6); };
  const auto read_bytes = [&](const Json& object, const char* key, int64_t& value) { read(object, key, value, most_cost_bytes); };
  for (const Json& row : list(json, "costs")) {
    StageCosts stage;
    for (const Json& c : list(row, "chunks")) {
      ChunkCosts chunk;
      read_seconds(c, "forward_seconds", chunk.forward), read_seconds(c, "backward_seconds", chunk.backward);
      read_seconds(c, "input_half_seconds", chunk.input_half), read_seconds(c, "weight_half_seconds", chunk.weight_half);
      read_bytes(c, "activation_bytes", chunk.activation_bytes), read_bytes(c, "gradient_bytes", chunk.gradient_bytes);
      read_bytes(c, "frame_bytes", chunk.frame_bytes), read_bytes(c, "input_bytes", chunk.input_bytes);
      stage.chunks.push_back(chunk);
    }
    read_seconds(row, "step_seconds", stage.step), read_seconds(row, "step_and_predict_seconds", stage.step_and_predict);
    read_seconds(row, "predict_seconds", stage.predict), read_seconds(row, "stash_seconds", stage.stash);
    read_bytes(row, "weight_bytes", stage.weight_bytes), read_bytes(row, "state_bytes", stage.state_bytes);
    read_bytes(row, "arena_bytes", stage.arena_bytes);
    if (int64_t(stage.chunks.size()) != setting.chunks)
      throw UsageError("the file of costs has " + std::to_string(stage.chunks.size()) + " chunks for a stage and says 'chunks' " +
                       std::to_string(setting.chunks) + hint);
    run.costs.stages.push_back(stage);
  }
  for (const Json& row : list(json, "skips")) {
    SkipCosts s;
    read(row, "from", s.skip.from, most_stages * most_chunks), read(row, "to", s.skip.to, most_stages * most_chunks);
    read_bytes(row, "activation_bytes", s.activation_bytes), read_bytes(row, "gradient_bytes", s.gradient_bytes);
    run.costs.skips.push_back(s);
  }
  if (int64_t(run.costs.stages.size()) != setting.stages)
    throw UsageError("the file of costs has those of " + std::to_string(run.costs.stages.size()) + " stages and says 'stages' " +
                     std::to_string(setting.stages) + hint);
  return run;
}

}  // namespace pipecast
