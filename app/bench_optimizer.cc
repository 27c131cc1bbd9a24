// What an update costs on this machine, with and without a prediction, beside what it must move through memory.
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "pipeline/measure/machine.h"
#include "pipeline/measure/measure.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

// Matrices as Muon takes them, of `side` rows and columns, and a vector of what is left.
Segments parameters_of(int64_t count) {
  constexpr int64_t side = 256;
  Segments segments;
  for (int64_t k = 0; k < count / (side * side); ++k)
    segments.add({.name = "matrix" + std::to_string(k), .shape = {side, side}, .initial = {}});
  if (count % (side * side) > 0) segments.add({.name = "vector", .shape = {count % (side * side)}, .initial = {}});
  return segments;
}

// Values that an operation has to move for each parameter: every stream that is read, and every one that is written, once.
struct Moved {
  int step, step_and_predict, predict;

  // A step reads weights, gradient and state, writes weights and state, and clears the gradient. A prediction with it writes the
  // predicted weights too; one alone reads weights and state (and some the gradient) again.
  explicit Moved(int states) : step(4 + 2 * states), step_and_predict(step + 1), predict(2 + states) {}
};

class BenchOptimizerCommand : public Command {
 public:
  BenchOptimizerCommand()
      : Command("bench optimizer", "Time of an update, alone and with a prediction, beside what memory permits",
                "  pipecast bench optimizer --optimizer adam --parameters 10000000 --threads 1\n"
                "  pipecast bench optimizer --optimizer sgd --momentum 0.9 --ahead 3 --json") {}

  void declare(Options& o) override {
    o.text("optimizer", optimizer_.name, "NAME", list(optimizer_names()));
    o.number("momentum", optimizer_.momentum, "U", "sgd, rmsprop, muon", 0, 1);
    o.number("weight-decay", optimizer_.weight_decay, "L", "of the weights", 0, 1000);
    o.number("parameters", parameters_, "N", "weights of the stage", 1, int64_t(1) << 40);
    o.number("ahead", ahead_, "N", "updates to predict ahead", 1, max_look_ahead);
    o.text("device", device_, "NAME", "cpu or cuda");
    o.number("threads", threads_, "N", "threads on the host; 0: all", 0, most_threads);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(optimizer_);
    threads_ = threads_asked_for(threads_);
    set_threads(threads_);
    const Segments segments = parameters_of(parameters_);
    const MachineRates machine = measure_machine(device_);
    const Moved moved(optimizer->states());
    Json rows = Json::array();
    std::string text = format("%s, %lld parameters, %d threads on %s; %.1f GB/s at most\n\n", optimizer_.name.c_str(),
                              (long long)(parameters_), threads_, device_.c_str(), machine.bytes_per_second * 1e-9);
    text += "                    step                       step and prediction                 extra   prediction alone\n"
            "look-ahead            ms   floor    GB/s            ms   floor    GB/s                        ms   floor    GB/s\n";
    for (const std::string& name : look_ahead_modes()) {
      const UpdateSeconds seconds = measure_updates(*optimizer, segments, look_ahead_mode(name), ahead_, device_);
      auto bytes = [&](int values) { return double(values) * double(parameters_) * sizeof(float); };
      auto json = [&](double s, int values) -> Json {
        return {{"seconds", s},
                {"bytes", bytes(values)},
                {"gigabytes_per_second", bytes(values) / s * 1e-9},
                {"floor_seconds", bytes(values) / machine.bytes_per_second}};
      };
      auto columns = [&](double s, int values) {
        return format("%8.3f %7.3f %7.1f", s * 1e3, bytes(values) / machine.bytes_per_second * 1e3, bytes(values) / s * 1e-9);
      };
      const double extra = seconds.step_and_predict / seconds.step - 1;
      rows.push_back({{"lookahead", name},
                      {"step", json(seconds.step, moved.step)},
                      {"step_and_predict", json(seconds.step_and_predict, moved.step_and_predict)},
                      {"predict", json(seconds.predict, moved.predict)},
                      {"extra_share", extra}});
      text += format("%-16s%s      %s      %+6.1f %%      %s\n", name.c_str(), columns(seconds.step, moved.step).c_str(),
                     columns(seconds.step_and_predict, moved.step_and_predict).c_str(), extra * 100,
                     columns(seconds.predict, moved.predict).c_str());
    }
    if (json_)
      text = Json{{"benchmark", "optimizer"},
                  {"optimizer", optimizer_.name},
                  {"parameters", parameters_},
                  {"ahead", ahead_},
                  {"device", device_},
                  {"threads", threads_},
                  {"machine_gigabytes_per_second", machine.bytes_per_second * 1e-9},
                  {"lookaheads", rows}}
                 .dump() +
             "\n";
    std::cout << text << std::flush;
  }

 private:
  OptimizerOptions optimizer_;
  int64_t parameters_ = 10'000'000;
  int ahead_ = 3, threads_ = 0;
  std::string device_ = "cpu";
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> bench_optimizer_command() { return std::make_unique<BenchOptimizerCommand>(); }

}  // namespace pipecast
