#pragma once
// Files that a command is asked to write, looked at before any work begins.
#include <string>
#include <vector>

#include "pipeline/train/run_folder.h"

namespace pipecast {

// Throws UsageError where the file that `option` names cannot be made, is one of the command's `inputs` ("": none), or is one that a run
// keeps in its folder.
void check_output_file(const std::string& option, const std::string& path, const std::vector<std::string>& inputs);

// Throws UsageError where a run in this folder would replace the file that it is to read ("": none).
void check_input_file(const std::string& option, const std::string& path, const RunFolder&);

}  // namespace pipecast
