#pragma once
// The options that say which programs are meant, shared by the commands that only look at them.
#include <algorithm>
#include <iostream>

#include "app/options.h"
#include "pipeline/limits.h"
#include "pipeline/plan/audit.h"
#include "pipeline/plan/draw.h"
#include "pipeline/program.h"
#include "pipeline/plan/program_file.h"

namespace pipecast {

struct MethodChoice {
  std::string method = "pipeoptim", look_ahead = "paper", recompute = "never", file;
  Setting setting{.stages = 4, .minibatches = 8};

  void declare(Options& o) {
    o.text("method", method, "NAME", "pipeline method: " + list_names(methods()));
    o.number("stages", setting.stages, "N", "stages of the pipeline", 1, most_stages);
    o.number("minibatches", setting.minibatches, "N", "mini-batches from fill to drain", 1, most_minibatches);
    o.number("micro-batches", setting.micro_batches, "N", "micro-batches per mini-batch", 1, most_micro_batches);
    o.number("chunks", setting.chunks, "N", "pieces of the model per stage; 0: as many as the method takes by itself", 0, most_chunks);
    o.text("lookahead", look_ahead, "MODE", "how far to predict: " + list(look_ahead_modes()));
    o.text("recompute", recompute, "MODE", "which activations to compute again for the backward: " + list(recompute_modes()));
    o.number("synchronous-minibatches", setting.synchronous, "N", "mini-batches at the beginning that run as in 1f1b-flush", 0,
             most_minibatches);
    o.number("rescale-minibatches", setting.rescale, "N", "pipemare: mini-batches until its learning rates are the full ones", 0,
             most_minibatches);
    o.text("program", file, "FILE", "a program file, .csv or .json, in place of all the above");
  }

  // Throws UsageError for names that are not known, for settings that the method refuses, and for a wrong program file.
  std::vector<Program> programs() {
    if (!file.empty()) return read_programs(file);
    Mistakes mistakes;
    mistakes.check([&] { find_method(method); });
    mistakes.check([&] { setting.look_ahead = look_ahead_mode(look_ahead); });
    mistakes.check([&] { setting.recompute = recompute_mode(recompute); });
    mistakes.report();
    return make_programs(find_method(method), setting);
  }

  // A fault is also drawn, unless `quiet`.
  Audit audited(const std::vector<Program>& programs, bool quiet = false, int most_copies = 0) const {
    try {
      return audit(programs, most_copies);
    } catch (const AuditFault& fault) {
      if (!quiet) std::cout << draw_text(programs.size(), fault) << std::flush;
      throw;
    }
  }

  std::string name() const { return file.empty() ? method : file; }
  std::string title(const Audit& audit) const {
    const bool ahead = std::any_of(audit.passes.begin(), audit.passes.end(), [](const AuditedPass& pass) { return pass.ahead > 0; });
    return name() + (file.empty() && ahead ? ", look-ahead " + look_ahead : "");
  }
};

}  // namespace pipecast
