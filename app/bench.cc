// `pipecast bench` is the name of its benchmarks, which are commands of their own, a file each.
#include "app/commands.h"

namespace pipecast {
namespace {

class BenchCommand : public Command {
 public:
  BenchCommand()
      : Command("bench", "Measure this machine: a training step, its layers, updates, and a pipeline beside one stage",
                "  pipecast bench step --model resnet20 --batch 128 --image 32 --threads 2\n"
                "  pipecast bench layers --model resnet20 --batch 128\n"
                "  pipecast bench optimizer --optimizer adam --parameters 10000000\n"
                "  pipecast bench pipeline --stages 2 --methods vanilla,pipeoptim,gpipe") {}

  void declare(Options&) override {}
  void run(const Options&) override {}  // a benchmark is run instead
};

}  // namespace

std::unique_ptr<Command> bench_command() { return std::make_unique<BenchCommand>(); }

}  // namespace pipecast
