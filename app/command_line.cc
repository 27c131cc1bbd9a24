#include "app/command_line.h"

#include <execinfo.h>
#include <fcntl.h>

#include <csignal>
#include <filesystem>
#include <iostream>
#include <new>
#include <sstream>
#include <system_error>
#include <typeinfo>

#include "app/commands.h"
#include "app/signals.h"

namespace pipecast {
namespace {

enum ExitCode { done = 0, run_failed = 1, wrong_input = 2, interrupted = 3 };

// A sentence may have the name of a file, which may be any bytes.
int report(const std::string& message, ExitCode code) {
  std::istringstream lines(message);
  for (std::string line; std::getline(lines, line);) std::cerr << "pipecast: " << printable(line) << "\n";
  return code;
}

// The next file to be opened would take the number of a closed standard stream, and be written into by what is meant for that one. What is
// opened for reading in its place lets writes fail.
void fill_closed_streams() {
  for (int stream = 0; stream < 3; ++stream)
    if (fcntl(stream, F_GETFD) < 0) open("/dev/null", O_RDONLY);
}

// glibc loads what exceptions need in its own frames when it is first needed, and ends the process where memory for it has run out.
void load_unwinder() {
  void* frame = nullptr;
  backtrace(&frame, 1);
}

// Output that was lost is a failure, though the work may be done.
void check_output() {
  if (!std::cout.flush()) throw Error("standard output cannot be written, and some of it is lost: is the disk full, or the output closed?");
}

}  // namespace

int run_command(int count, char** arguments) {
  fill_closed_streams();
  load_unwinder();
  std::signal(SIGXFSZ, SIG_IGN);  // a file above `ulimit -f` is then a failed write like any other
  try {
    std::vector<std::unique_ptr<Command>> commands;
    commands.push_back(train_command());
    commands.push_back(compare_command());
    commands.push_back(eval_command());
    commands.push_back(predict_command());
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
    commands.push_back(models_command());
    commands.push_back(info_command());
    run_command_line(count, arguments, commands);
    check_output();
    return done;
  } catch (const UsageError& error) {
    return report(error.what(), wrong_input);
  } catch (const Interrupted& error) {
    return report(error.what(), interrupted);
  } catch (const Error& error) {
    return report(error.what(), run_failed);
  } catch (const std::filesystem::filesystem_error& error) {
    return report("'" + error.path1().string() + "': " + error.code().message(), run_failed);
  } catch (const std::system_error& error) {
    return report("the system refused a thread or a lock: " + error.code().message(), run_failed);
  } catch (const std::bad_alloc&) {
    return report("this machine has not so much memory left; use smaller batches", run_failed);
  } catch (const std::exception& error) {
    return report("a mistake of pipecast's own ended this (" + std::string(typeid(error).name()) + "); please report it with the command line",
                  run_failed);
  }
}

}  // namespace pipecast
