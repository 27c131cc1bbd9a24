// The timeline of a method, as text or SVG.
#include <iostream>

#include "app/commands.h"
#include "app/method_choice.h"
#include "app/output_file.h"
#include "pipeline/train/run_folder.h"

namespace pipecast {
namespace {

class DrawCommand : public Command {
 public:
  DrawCommand()
      : Command("draw", "Draw the timeline of a method, as text or SVG",
                "  pipecast draw --stages 4 --method pipeoptim --minibatches 8\n"
                "  pipecast draw --stages 4 --method gpipe --micro-batches 4 --out gpipe.svg") {}

  void declare(Options& o) override {
    choice_.declare(o);
    o.text("out", out_, "FILE.svg", "write an SVG; without it, text is printed");
    o.not_in_config();
  }

  void run(const Options&) override {
    if (!out_.empty()) check_output_file("out", out_, {choice_.file});
    const Audit result = choice_.audited(choice_.programs());
    if (out_.empty()) std::cout << draw_text(result);
    else write_file(out_, draw_svg(choice_.title(result), result));
  }

 private:
  MethodChoice choice_;
  std::string out_;
};

}  // namespace

std::unique_ptr<Command> draw_command() { return std::make_unique<DrawCommand>(); }

}  // namespace pipecast
