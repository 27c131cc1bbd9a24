#include "pipeline/plan/program_file.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "engine/files/durable_file.h"
#include "engine/error.h"
#include "engine/utf8.h"
#include "pipeline/limits.h"

namespace pipecast {
namespace {

constexpr size_t most_instructions = 1000000, most_bytes = 64 << 20;

struct Row : Instruction {
  int stage = 0;
};

// A column. `set` throws UsageError for a text that is no value of it.
struct Field {
  std::string name;
  std::function<void(Row&, const std::string&)> set;
  std::function<std::string(const Row&)> get;
  bool quoted = false;  // in JSON
};

template <class T>
std::string to_text(T value) {
  char buffer[64];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};  // the shortest text that reads back the same
}

template <class T, class Owner>
Field number(const std::string& name, T Owner::*member, T least, T most) {
  auto set = [=](Row& row, const std::string& text) {
    T value{};
    const char* end = text.data() + text.size();
    const auto [after, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || after != end || !(value >= least && value <= most))
      throw UsageError("'" + shown(text) + "' is not a " + (std::is_integral_v<T> ? "whole " : "") + "number from " + to_text(least) +
                       " to " + to_text(most));
    row.*member = value;
  };
  return {name, set, [=](const Row& row) { return to_text(row.*member); }};
}

// Values 0 .. last of an enumeration, by their names.
template <class T>
Field choice(const std::string& name, T Instruction::*member, T last) {
  auto set = [=](Row& row, const std::string& text) {
    std::vector<std::string> names;
    for (int value = 0; value <= int(last); ++value) {
      names.push_back(to_string(T(value)));
      if (text == names.back()) return void(row.*member = T(value));
    }
    throw UsageError(unknown_name(name, text, names));
  };
  return {name, set, [=](const Row& row) { return to_string(row.*member); }, true};
}

const std::vector<Field>& fields() {
  auto set_keep = [](Row& row, const std::string& text) {
    if (text != "true" && text != "false") throw UsageError("'" + shown(text) + "' is neither true nor false");
    row.keep = text == "true";
  };
  static const std::vector<Field> fields = {
      number("stage", &Row::stage, 0, most_stages - 1),
      choice("operation", &Row::operation, Operation::stash),
      number("minibatch", &Row::minibatch, int64_t(0), most_minibatches),
      number("micro", &Row::micro, 0, most_micro_batches - 1),
      number("chunk", &Row::chunk, 0, most_chunks - 1),
      choice("reads", &Row::reads, Reads::stash),
      number("ahead", &Row::ahead, -65535, 65535),
      number("back", &Row::back, 0, 65535),
      number("late", &Row::late, 0, 65535),
      number("age", &Row::age, 0, 65535),
      number("slot", &Row::slot, 0, most_stages - 1),
      number("scale", &Row::scale, 0.0f, 1e6f),
      {"keep", set_keep, [](const Row& row) { return std::string(row.keep ? "true" : "false"); }},
  };
  return fields;
}

const Field& find_field(const std::string& name, const std::string& place) {
  std::vector<std::string> known;
  for (const Field& field : fields()) {
    if (field.name == name) return field;
    known.push_back(field.name);
  }
  throw UsageError(place + ": " + unknown_name("field", name, known));
}

// Files from before `back` and `late` have both in `ahead`: below 0 it was a distance back, and of a step the lateness.
Instruction in_grammar(Instruction i) {
  if (i.operation == Operation::step) i.late += std::exchange(i.ahead, 0);
  if (i.operation == Operation::predict && i.ahead < 0) i.operation = Operation::look_back;
  if (i.ahead < 0) i.back -= std::exchange(i.ahead, 0);
  return i;
}

// The row at one place of a file.
class Entry {
 public:
  explicit Entry(std::string place) : place_(std::move(place)) {}

  void set(const Field& field, const std::string& text) {
    if (!given_.insert(&field).second) throw UsageError(place_ + ": field '" + field.name + "' is given twice; give it once");
    try {
      field.set(row_, text);
    } catch (const UsageError& error) {
      throw UsageError(place_ + ", field '" + field.name + "': " + error.what());
    }
  }
  void add_to(std::vector<Program>& programs, size_t number) const {
    if (!given_.count(&find_field("operation", place_))) throw UsageError(place_ + ": there is no operation; every instruction has one");
    if (number > most_instructions)
      throw UsageError(place_ + ": a program file holds at most " + std::to_string(most_instructions) +
                       " instructions; write fewer mini-batches, training repeats them");
    if (programs.size() <= size_t(row_.stage)) programs.resize(size_t(row_.stage) + 1);
    programs[size_t(row_.stage)].push_back(in_grammar(row_));
  }

 private:
  std::string place_;
  Row row_;
  std::set<const Field*> given_;
};

// The values of a line, without blanks around them; at most one more than there are fields.
std::vector<std::string> cells(const std::string& line) {
  std::vector<std::string> cells;
  for (size_t begin = 0, end = 0; end != std::string::npos && cells.size() <= fields().size(); begin = end + 1) {
    end = line.find(',', begin);
    const std::string cell = line.substr(begin, end - begin);
    const size_t first = cell.find_first_not_of(" \t\r");
    cells.push_back(first == std::string::npos ? "" : cell.substr(first, cell.find_last_not_of(" \t\r") + 1 - first));
  }
  return cells;
}

std::vector<Program> read_csv(const std::string& path, const std::string& text) {
  std::vector<Program> programs;
  std::vector<const Field*> columns;
  std::istringstream lines(std::string(without_byte_order_mark(text)));
  size_t instructions = 0, number = 1;
  for (std::string line; std::getline(lines, line); ++number) {
    const std::string place = path + ":" + std::to_string(number);
    const std::vector<std::string> values = cells(line.substr(0, line.find('#')));
    if (values.size() == 1 && values[0].empty()) continue;
    if (columns.empty()) {
      for (const std::string& name : values) {
        columns.push_back(&find_field(name, place));
        if (std::count(columns.begin(), columns.end(), columns.back()) > 1)
          throw UsageError(place + ": column '" + name + "' is given twice; give it once");
      }
      continue;
    }
    if (values.size() != columns.size())
      throw UsageError(place + ": the line has " + (values.size() > fields().size() ? "more" : std::to_string(values.size())) +
                       " values and the first line names " + std::to_string(columns.size()) +
                       " columns; write a value for each, or nothing between two commas");
    Entry entry(place);
    for (size_t c = 0; c < columns.size(); ++c)
      if (!values[c].empty()) entry.set(*columns[c], values[c]);
    entry.add_to(programs, ++instructions);
  }
  return programs;
}

// Entries are taken as they are parsed, and nothing is kept of the document.
std::vector<Program> read_json(const std::string& path, const std::string& text) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<Program> programs;
  std::optional<Entry> entry;
  const Field* field = nullptr;
  size_t number = 0;
  auto take = [&](int depth, Event event, nlohmann::json& parsed) {
    const std::string place = path + ", entry " + std::to_string(number + (depth == 1 && event != Event::object_end ? 1 : 0));
    const bool begins = event == Event::array_start || event == Event::object_start || event == Event::value;
    const Event wanted = depth == 0 ? Event::array_start : depth == 1 ? Event::object_start : Event::value;
    if (begins && event != wanted)
      throw UsageError((depth == 0 ? path : place) +
                       ": a program is an array of objects, [{\"stage\": 0, \"operation\": \"forward\", ...}, ...]");
    if (event == Event::object_start) entry.emplace(place), ++number;
    if (event == Event::key) field = &find_field(parsed.get<std::string>(), place);
    if (event == Event::value) entry->set(*field, parsed.is_string() ? parsed.get<std::string>() : parsed.dump());
    if (event == Event::object_end) entry->add_to(programs, number);
    return event != Event::object_end;
  };
  try {
    [[maybe_unused]] const nlohmann::json emptied = nlohmann::json::parse(text, take);
  } catch (const nlohmann::json::parse_error& error) {
    const auto end = text.begin() + ptrdiff_t(std::min(error.byte, text.size()));
    throw UsageError(path + ":" + std::to_string(1 + std::count(text.begin(), end, '\n')) +
                     ": this is not JSON; correct what stands here or before");
  } catch (const nlohmann::json::exception&) {
    throw UsageError(path + ", entry " + std::to_string(number) + ": a number does not fit; see docs/program-files.md for the limits");
  }
  return programs;
}

}  // namespace

ProgramFormat program_format(const std::string& path) {
  if (path.ends_with(".csv")) return ProgramFormat::csv;
  if (path.ends_with(".json")) return ProgramFormat::json;
  throw UsageError("program file '" + path + "' ends neither in .csv nor in .json; its ending says which of the two it is");
}

std::vector<Program> read_programs(const std::string& path) {
  const ProgramFormat format = program_format(path);
  return parse_programs(std::string(text_of(read_file_or_pipe(path, most_bytes))), format, path);
}

std::vector<Program> parse_programs(const std::string& text, ProgramFormat format, const std::string& path) {
  const std::vector<Program> programs = format == ProgramFormat::csv ? read_csv(path, text) : read_json(path, text);
  if (programs.empty()) throw UsageError("program file '" + path + "' holds no instructions; give every stage some");
  for (size_t k = 0; k < programs.size(); ++k)
    if (programs[k].empty())
      throw UsageError("program file '" + path + "' has instructions for stage " + std::to_string(programs.size() - 1) +
                       " and none for stage " + std::to_string(k) + "; number the stages from 0 without a gap");
  return programs;
}

std::string write_programs(const std::vector<Program>& programs, ProgramFormat format) {
  const bool csv = format == ProgramFormat::csv;
  std::string text;
  if (csv)
    for (const Field& field : fields()) text += (text.empty() ? "" : ",") + field.name;
  for (size_t k = 0; k < programs.size(); ++k)
    for (const Instruction& i : programs[k]) {
      const Row row{i, int(k)};
      std::string line;
      for (const Field& field : fields()) {
        const std::string value = field.get(row), quote = field.quoted ? "\"" : "";
        if (csv) line += (line.empty() ? "" : ",") + value;
        // What is not the default.
        else if (field.name == "stage" || field.name == "operation" || value != field.get(Row{}))
          line += (line.empty() ? "{" : ", ") + ("\"" + field.name + "\": ") + quote + value + quote;
      }
      text += csv ? "\n" + line : (text.empty() ? "[\n" : ",\n") + line + "}";
    }
  if (!csv) text += text.empty() ? "[]" : "\n]";
  return text + "\n";
}

}  // namespace pipecast
