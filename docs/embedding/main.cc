#include "app/command_line.h"
#include "fork.h"

int main(int count, char** arguments) {
  mine::register_all();
  return pipecast::run_command(count, arguments);
}
