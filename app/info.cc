// What this binary is, and what it knows.
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app/commands.h"
#include "data/dataset.h"
#include "engine/device.h"
#include "models/models.h"
#include "optim/schedule.h"
#include "pipeline/run/executor.h"
#include "pipeline/program.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

constexpr bool built_with_cuda =
#ifdef PIPECAST_CUDA
    true;
#else
    false;
#endif

constexpr const char* compiler =
#ifdef __clang__
    __VERSION__;
#else
    "g++ " __VERSION__;
#endif

template <class Row>
Json rows(const std::vector<Row>& table) {
  Json rows = Json::array();
  for (const Row& row : table) rows.push_back({{"name", row.name}, {"summary", row.summary}});
  return rows;
}

Json gather() {
  Json devices = {"cpu"}, libraries = Json::array();
  if (gpu_present()) devices.push_back("cuda");
  std::istringstream lines(library_versions());
  for (std::string line; std::getline(lines, line);) libraries.push_back(line);
  return {{"version", PIPECAST_VERSION},
          {"compiler", compiler},
          {"cuda", built_with_cuda},
          {"devices", devices},
          {"threads", threads()},
          {"libraries", libraries},
          {"models", rows(model_entries())},
          {"methods", rows(methods())},
          {"lookaheads", look_ahead_modes()},
          {"optimizers", optimizer_names()},
          {"schedules", schedule_names()},
          {"executors", executor_names()},
          {"datasets", rows(dataset_formats())}};
}

// A line per key; tables go on below, a line per row.
void print(const Json& info) {
  for (const auto& [key, value] : info.items()) {
    std::string line;
    if (value.is_string()) line = value;
    else if (value.is_boolean()) line = value ? "yes" : "no";
    else if (!value.is_array()) line = value.dump();
    else
      for (const Json& item : value)
        line += item.is_string()
                    ? (line.empty() ? "" : ", ") + item.get<std::string>()
                    : format("\n  %-12s %s", item["name"].get<std::string>().c_str(), item["summary"].get<std::string>().c_str());
    std::cout << format("%-12s", key.c_str()) << line << "\n";
  }
}

class InfoCommand : public Command {
 public:
  InfoCommand() : Command("info", "Print the build, devices, libraries, models, methods and data sets", "  pipecast info --json") {}

  void declare(Options& o) override {
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    if (json_) std::cout << gather().dump(2) << "\n";
    else print(gather());
  }

 private:
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> info_command() { return std::make_unique<InfoCommand>(); }

}  // namespace pipecast
