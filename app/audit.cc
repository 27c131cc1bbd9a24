// Which weights each pass of a method reads, before anything is trained.
#include <iostream>

#include "app/commands.h"
#include "app/method_choice.h"
#include "pipeline/draw.h"

namespace pipecast {
namespace {

class AuditCommand : public Command {
 public:
  AuditCommand()
      : Command("audit", "Show which weights each pass of a method reads, its lag, and the copies and frames held",
                "  pipecast audit --stages 4 --method pipeoptim --minibatches 8\n"
                "  pipecast audit --stages 4 --method vanilla --minibatches 8 --json") {}

  void declare(Options& o) override {
    choice_.declare(o);
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    const Audit result = choice_.audited();
    std::cout << (json_ ? audit_json(choice_.method, choice_.setting, result) + "\n"
                        : audit_table(choice_.method, choice_.setting, result));
  }

 private:
  MethodChoice choice_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> audit_command() { return std::make_unique<AuditCommand>(); }

}  // namespace pipecast
