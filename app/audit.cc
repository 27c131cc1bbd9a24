// Which weights each pass of a method reads, before anything is trained.
#include <iostream>

#include "app/commands.h"
#include "app/method_choice.h"
#include "app/output_file.h"
#include "pipeline/train/run_folder.h"

namespace pipecast {
namespace {

class AuditCommand : public Command {
 public:
  AuditCommand()
      : Command("audit", "Show which weights each pass of a method reads, its lag, and the copies and frames held",
                "  pipecast audit --stages 4 --method pipeoptim --minibatches 8\n"
                "  pipecast audit --stages 4 --method vanilla --minibatches 8 --json\n"
                "  pipecast audit --stages 4 --method pipedream --export mine.csv\n"
                "  pipecast audit --program mine.csv --max-copies 2") {}

  void declare(Options& o) override {
    choice_.declare(o);
    o.number("max-copies", most_copies_, "N", "refuse programs that need more copies of the weights; 0: any number", 0, most_stages + 1);
    o.text("export", export_, "FILE", "also write the programs to a file, .csv or .json");
    o.not_in_config();
    o.flag("json", json_, "print JSON");
    o.not_in_config();
  }

  void run(const Options&) override {
    if (!export_.empty()) check_output_file("export", export_, {choice_.file});
    const std::vector<Program> programs = choice_.programs();
    const Audit result = choice_.audited(programs, json_, most_copies_);
    if (!export_.empty()) write_file(export_, write_programs(programs, program_format(export_)));
    std::cout << (json_ ? audit_json(choice_.name(), result) + "\n" : audit_table(choice_.title(result), result));
  }

 private:
  MethodChoice choice_;
  int most_copies_ = 0;
  std::string export_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> audit_command() { return std::make_unique<AuditCommand>(); }

}  // namespace pipecast
