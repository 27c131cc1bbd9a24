// What is read is written and read again.
#include "app/config_file.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pipecast;
  return read_or_refuse([&] {
    const std::vector<ConfigLine> lines = parse_config(std::string(as_text(data, size)), "FILE");
    std::string text;
    for (const ConfigLine& line : lines) text += config_line(line.name, line.value, true);
    const std::vector<ConfigLine> again = parse_config(text, "FILE");
    if (again.size() != lines.size()) std::abort();
    for (size_t i = 0; i < lines.size(); ++i)
      if (again[i].name != lines[i].name || again[i].value != lines[i].value) std::abort();
  });
}
