// Programs as JSON: what is read is audited too, and written and read again.
#include "pipeline/plan/audit.h"
#include "pipeline/plan/program_file.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pipecast;
  return read_or_refuse([&] {
    const std::vector<Program> programs = parse_programs(std::string(as_text(data, size)), ProgramFormat::json, "FILE");
    if (parse_programs(write_programs(programs, ProgramFormat::json), ProgramFormat::json, "FILE") != programs) std::abort();
    audit(programs);
  });
}
