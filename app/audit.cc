// Which weights each pass of a method reads, before anything is trained.
#include "pipeline/audit.h"

#include <iostream>

#include "app/commands.h"

namespace pipecast {
namespace {

class AuditCommand : public Command {
 public:
  AuditCommand()
      : Command("audit", "Show which weights each pass of a method reads, its lag, and the copies and frames held",
                "  pipecast audit --stages 4 --method pipeoptim --minibatches 8\n"
                "  pipecast audit --stages 4 --method vanilla --minibatches 8 --json") {}

  void declare(Options& o) override {
    o.text("method", method_, "NAME", "pipeline method: " + list_names(methods()));
    o.number("stages", setting_.stages, "N", "stages of the pipeline", 1);
    o.number("minibatches", setting_.minibatches, "N", "mini-batches from fill to drain", int64_t(1));
    o.number("micro-batches", setting_.micro_batches, "N", "micro-batches per mini-batch", 1);
    o.text("lookahead", look_ahead_, "MODE", "how far to predict: " + list(look_ahead_modes()));
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    Mistakes mistakes;
    mistakes.check([&] { find_method(method_); });
    mistakes.check([&] { setting_.look_ahead = look_ahead_mode(look_ahead_); });
    mistakes.report();
    const Audit result = audit(make_programs(find_method(method_), setting_));
    std::cout << (json_ ? audit_json(method_, setting_, result) + "\n" : audit_table(method_, setting_, result));
  }

 private:
  std::string method_ = "pipeoptim", look_ahead_ = "paper";
  Setting setting_{.stages = 4, .minibatches = 8};
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> audit_command() { return std::make_unique<AuditCommand>(); }

}  // namespace pipecast
