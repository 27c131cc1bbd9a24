#pragma once
// Programs as files, for methods that are not built in: a table with a row per instruction, those of a stage in the order in which it
// carries them out. docs/program-files.md describes the columns.
#include <string>
#include <vector>

#include "pipeline/program.h"

namespace pipecast {

enum class ProgramFormat { csv, json };
ProgramFormat program_format(const std::string& path);  // by its ending; throws UsageError for any other than .csv and .json

// One program per stage. Throws UsageError naming file, line or entry, and field, for whatever is not such a table; that the programs
// make sense is the audit's to say.
std::vector<Program> read_programs(const std::string& path);
std::vector<Program> parse_programs(const std::string& text, ProgramFormat, const std::string& path);  // the same over memory

std::string write_programs(const std::vector<Program>&, ProgramFormat);

}  // namespace pipecast
