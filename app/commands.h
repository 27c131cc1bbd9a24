#pragma once
// The commands, one per file.
#include <memory>

#include "app/options.h"

namespace pipecast {

std::unique_ptr<Command> train_command();
std::unique_ptr<Command> compare_command();
std::unique_ptr<Command> eval_command();
std::unique_ptr<Command> predict_command();
std::unique_ptr<Command> audit_command();
std::unique_ptr<Command> draw_command();
std::unique_ptr<Command> plan_command();
std::unique_ptr<Command> simulate_command();
std::unique_ptr<Command> bench_command();
std::unique_ptr<Command> bench_step_command();
std::unique_ptr<Command> bench_layers_command();
std::unique_ptr<Command> bench_optimizer_command();
std::unique_ptr<Command> bench_pipeline_command();
std::unique_ptr<Command> export_command();
std::unique_ptr<Command> import_command();
std::unique_ptr<Command> models_command();
std::unique_ptr<Command> info_command();

}  // namespace pipecast
