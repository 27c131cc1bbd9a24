#include "app/command_line.h"

#include <iostream>
#include <sstream>

#include "app/commands.h"
#include "app/signals.h"

namespace pipecast {
namespace {

enum ExitCode { done = 0, run_failed = 1, wrong_input = 2, interrupted = 3 };

int report(const std::string& message, ExitCode code) {
  std::istringstream lines(message);
  for (std::string line; std::getline(lines, line);) std::cerr << "pipecast: " << line << "\n";
  return code;
}

}  // namespace

int run_command(int count, char** arguments) {
  try {
    std::vector<std::unique_ptr<Command>> commands;
    commands.push_back(train_command());
    commands.push_back(compare_command());
    commands.push_back(eval_command());
    commands.push_back(audit_command());
    commands.push_back(draw_command());
    commands.push_back(plan_command());
    commands.push_back(simulate_command());
    commands.push_back(bench_command());
    commands.push_back(bench_step_command());
    commands.push_back(bench_layers_command());
    commands.push_back(bench_optimizer_command());
    commands.push_back(bench_pipeline_command());
    commands.push_back(export_command());
    commands.push_back(import_command());
    commands.push_back(info_command());
    run_command_line(count, arguments, commands);
    return done;
  } catch (const UsageError& error) {
    return report(error.what(), wrong_input);
  } catch (const Interrupted& error) {
    return report(error.what(), interrupted);
  } catch (const std::exception& error) {
    return report(error.what(), run_failed);
  }
}

}  // namespace pipecast
