#include "app/signals.h"

#include <atomic>
#include <csignal>

namespace pipecast {
namespace {

constexpr int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
std::atomic<int> caught = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler must not wait");

// Calls nothing but what is safe in a signal handler.
void note(int signal) {
  if (caught.exchange(signal) == 0) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // delivered when the handler returns
}

}  // namespace

void catch_signals() {
  struct sigaction action = {};
  action.sa_handler = note;
  action.sa_flags = SA_RESTART;
  for (int signal : signals) {
    struct sigaction before = {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

std::string caught_signal() {
  switch (caught) {
    case 0: return "";
    case SIGINT: return "SIGINT";
    case SIGHUP: return "SIGHUP";
    case SIGUSR1: return "SIGUSR1";
    default: return "SIGTERM";
  }
}

}  // namespace pipecast
