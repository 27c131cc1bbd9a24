#include "app/command_line.h"

int main(int count, char** arguments) { return pipecast::run_command(count, arguments); }
