#pragma once
// The options that say which method's programs are meant, shared by the commands that only look at them.
#include "app/options.h"
#include "pipeline/audit.h"
#include "pipeline/program.h"

namespace pipecast {

struct MethodChoice {
  std::string method = "pipeoptim", look_ahead = "paper";
  Setting setting{.stages = 4, .minibatches = 8};

  void declare(Options& o) {
    o.text("method", method, "NAME", "pipeline method: " + list_names(methods()));
    o.number("stages", setting.stages, "N", "stages of the pipeline", 1);
    o.number("minibatches", setting.minibatches, "N", "mini-batches from fill to drain", int64_t(1));
    o.number("micro-batches", setting.micro_batches, "N", "micro-batches per mini-batch", 1);
    o.text("lookahead", look_ahead, "MODE", "how far to predict: " + list(look_ahead_modes()));
  }
  // Throws UsageError for names that nobody knows and for settings that the method refuses.
  Audit audited() {
    Mistakes mistakes;
    mistakes.check([&] { find_method(method); });
    mistakes.check([&] { setting.look_ahead = look_ahead_mode(look_ahead); });
    mistakes.report();
    return audit(make_programs(find_method(method), setting));
  }
};

}  // namespace pipecast
