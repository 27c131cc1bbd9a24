#pragma once
// The whole `pipecast` command as a function, for programs that add names of their own to it.
//
//   int main(int count, char** arguments) {
//     pipecast::register_model({"mine", "a model of my own", my_model});
//     return pipecast::run_command(count, arguments);
//   }

namespace pipecast {

// Returns the exit code (docs/command.md). Messages go to stderr, results to stdout.
int run_command(int count, char** arguments);

}  // namespace pipecast
