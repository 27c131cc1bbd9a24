// Program files: what is written reads back the same, and nothing that a file may hold does more than earn a sentence.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "engine/error.h"
#include "pipeline/plan/audit.h"
#include "pipeline/plan/program_file.h"

using namespace pipecast;

namespace {

struct TemporaryFile {
  explicit TemporaryFile(const std::string& ending)
      : path((std::filesystem::temp_directory_path() / ("pipecast-programs-" + std::to_string(std::random_device{}()) + ending)).string()) {
  }
  ~TemporaryFile() { std::filesystem::remove_all(path); }
  void write(const std::string& text) const { std::ofstream(path, std::ios::binary) << text; }
  const std::string path;
};

std::vector<Program> read(const std::string& ending, const std::string& text) {
  const TemporaryFile file(ending);
  file.write(text);
  return read_programs(file.path);
}

// The sentence, with "FILE" for the path.
std::string error_of(const std::string& ending, const std::string& text) {
  const TemporaryFile file(ending);
  file.write(text);
  try {
    read_programs(file.path);
  } catch (const UsageError& error) {
    std::string sentence = error.what();
    for (size_t at; (at = sentence.find(file.path)) != std::string::npos;) sentence.replace(at, file.path.size(), "FILE");
    return sentence;
  }
  return "";
}

const std::vector<LookAheadMode> modes = {LookAheadMode::paper, LookAheadMode::released, LookAheadMode::exact, LookAheadMode::decayed};

}  // namespace

TEST_CASE("every method's programs read back as they were written") {
  for (const Method& method : methods())
    for (LookAheadMode mode : modes)
      for (Recompute recompute : {Recompute::never, Recompute::always})
        for (int stages : {1, 4}) {
          CAPTURE(method.name);
          CAPTURE(stages);
          const auto programs = make_programs(method, {stages, 5, 4, mode, 0, recompute, 0, 1, 3});
          CHECK(read(".csv", write_programs(programs, ProgramFormat::csv)) == programs);
          CHECK(read(".json", write_programs(programs, ProgramFormat::json)) == programs);
        }
}

TEST_CASE("columns may be left out and stand in any order; blanks, comments and line ends do not matter") {
  const std::vector<Program> expected = {{{.operation = Operation::receive_activation}, {.operation = Operation::forward, .keep = false}},
                                         {{.operation = Operation::step, .minibatch = 2, .scale = 0.1f}}};
  CHECK(read(".csv",
             "# mine\r\n\r\n keep, operation ,minibatch,scale,stage # columns\r\n,receive_activation,,,\r\n"
             "true,step,2,0.1,1\r\nfalse , forward,0, 1.0,0# kept nothing\n") == expected);
  CHECK(read(".json", R"([{"operation": "receive_activation"}, {"stage": 1, "operation": "step", "scale": 0.1, "minibatch": 2},
                          {"keep": false, "operation": "forward", "scale": 1}])") == expected);
  CHECK(read(".csv", "operation\nforward") == std::vector<Program>{{{}}});
  CHECK(read(".csv", "\uFEFFoperation\nforward") == std::vector<Program>{{{}}});  // a byte order mark
  CHECK(write_programs({{{.operation = Operation::look_back, .minibatch = 1, .back = 2}}}, ProgramFormat::json) ==
        "[\n{\"stage\": 0, \"operation\": \"look_back\", \"minibatch\": 1, \"back\": 2}\n]\n");
  CHECK(write_programs({{{.operation = Operation::forward, .reads = Reads::predicted, .age = 1, .keep = false}}}, ProgramFormat::csv) ==
        "stage,operation,minibatch,micro,chunk,reads,ahead,back,late,age,slot,scale,keep\n0,forward,0,0,0,predicted,0,0,0,1,0,1,false\n");
}

TEST_CASE("files from before the fields back and late are understood") {
  CHECK(read(".csv", "operation,reads,ahead\npredict,,-2\nbackward,predicted,-2\nstep,,3\npredict,,1\nforward,predicted,1\n") ==
        std::vector<Program>{{{.operation = Operation::look_back, .back = 2},
                              {.operation = Operation::backward, .reads = Reads::predicted, .back = 2},
                              {.operation = Operation::step, .late = 3},
                              {.operation = Operation::predict, .ahead = 1},
                              {.operation = Operation::forward, .reads = Reads::predicted, .ahead = 1}}});
}

TEST_CASE("what is wrong in a file is named with its line and its field") {
  auto csv = [](const std::string& row) {
    return error_of(".csv", "stage,operation,minibatch,micro,chunk,reads,ahead,age,slot,scale,keep\n" + row);
  };
  CHECK(csv("0,forwrd,,,,,,,,,").starts_with("FILE:2, field 'operation': unknown operation 'forwrd'; did you mean 'forward'? Known: "));
  CHECK(csv("4096,forward,,,,,,,,,") == "FILE:2, field 'stage': '4096' is not a whole number from 0 to 4095");
  CHECK(csv("-1,forward,,,,,,,,,") == "FILE:2, field 'stage': '-1' is not a whole number from 0 to 4095");
  CHECK(csv("0,forward,1000000001,,,,,,,,") == "FILE:2, field 'minibatch': '1000000001' is not a whole number from 0 to 1000000000");
  CHECK(csv("0,forward,99999999999999999999,,,,,,,,").find("is not a whole number from 0") != std::string::npos);
  CHECK(csv("0,forward,,65536,,,,,,,") == "FILE:2, field 'micro': '65536' is not a whole number from 0 to 65535");
  CHECK(csv("0,forward,,1.5,,,,,,,") == "FILE:2, field 'micro': '1.5' is not a whole number from 0 to 65535");
  CHECK(csv("0,forward,,,64,,,,,,") == "FILE:2, field 'chunk': '64' is not a whole number from 0 to 63");
  CHECK(csv("0,forward,,,,newest,,,,,") ==
        "FILE:2, field 'reads': unknown reads 'newest'; did you mean 'latest'? Known: latest, predicted, stash");
  CHECK(csv("0,predict,,,,,65536,,,,") == "FILE:2, field 'ahead': '65536' is not a whole number from -65535 to 65535");
  CHECK(csv("0,forward,,,,,,-1,,,") == "FILE:2, field 'age': '-1' is not a whole number from 0 to 65535");
  CHECK(csv("0,stash,,,,,,,5000,,") == "FILE:2, field 'slot': '5000' is not a whole number from 0 to 4095");
  for (const std::string scale : {"-0.5", "nan", "inf", "1e7", "1e999", "0x1"}) {
    CAPTURE(scale);
    CHECK(csv("0,step,,,,,,,," + scale + ",").starts_with("FILE:2, field 'scale': '" + scale + "' is not a number from 0 to 1e+06"));
  }
  CHECK(csv("0,forward,,,,,,,,,yes") == "FILE:2, field 'keep': 'yes' is neither true nor false");
  CHECK(csv("\n0,,,,,,,,,,") == "FILE:3: there is no operation; every instruction has one");
  CHECK(csv("0,forward") ==
        "FILE:2: the line has 2 values and the first line names 11 columns; write a value for each, or nothing between two commas");
  CHECK(csv("0,forward" + std::string(1 << 20, ',')).starts_with("FILE:2: the line has more values and the first line names 11 columns"));
  CHECK(csv("2,forward,,,,,,,,,") ==
        "program file 'FILE' has instructions for stage 2 and none for stage 0; number the stages from 0 without a gap");
  CHECK(csv("") == "program file 'FILE' holds no instructions; give every stage some");
  CHECK(error_of(".csv", "stage,operator\n").starts_with("FILE:1: unknown field 'operator'; did you mean 'operation'? Known: stage,"));
  CHECK(error_of(".csv", "stage,operation,stage\n") == "FILE:1: column 'stage' is given twice; give it once");
  // Nothing of a hostile value but its beginning, and no control characters.
  CHECK(error_of(".csv", "operation\n\x1b[2J" + std::string(1 << 20, 'x'))
            .starts_with("FILE:2, field 'operation': unknown operation '?[2J" + std::string(76, 'x') + "...'; Known: "));

  const std::string shape = ": a program is an array of objects, [{\"stage\": 0, \"operation\": \"forward\", ...}, ...]";
  CHECK(error_of(".json", "{}") == "FILE" + shape);
  CHECK(error_of(".json", "3") == "FILE" + shape);
  CHECK(error_of(".json", "[{\"operation\": \"step\"}, 3]") == "FILE, entry 2" + shape);
  CHECK(error_of(".json", std::string(100000, '[')) == "FILE, entry 1" + shape);
  CHECK(error_of(".json", "[{\"operation\": [\"step\"]}]") == "FILE, entry 1" + shape);
  CHECK(error_of(".json", "[{\"operation\": {}}]") == "FILE, entry 1" + shape);
  CHECK(error_of(".json", "[\n{\"operation\": \"step\"},\n}") == "FILE:3: this is not JSON; correct what stands here or before");
  CHECK(error_of(".json", "[{\"operation\": \"\xff\"}]").starts_with("FILE:1: this is not JSON"));
  CHECK(error_of(".json", "[{\"operation\": \"step\"}, {\"stage\": null}]") ==
        "FILE, entry 2, field 'stage': 'null' is not a whole number from 0 to 4095");
  CHECK(error_of(".json", "[{\"scale\": 1e999}]").starts_with("FILE, entry 1: a number does not fit"));
  CHECK(error_of(".json", "[{\"stage\": 0}]") == "FILE, entry 1: there is no operation; every instruction has one");
  CHECK(error_of(".json", "[{\"stage\": 0, \"stage\": 1}]") == "FILE, entry 1: field 'stage' is given twice; give it once");
  CHECK(error_of(".json", "[{\"stages\": 0}]").starts_with("FILE, entry 1: unknown field 'stages'; did you mean 'stage'?"));
  CHECK(error_of(".json", "[]") == "program file 'FILE' holds no instructions; give every stage some");
}

TEST_CASE("files that cannot be read, and sizes beyond the limits, are refused") {
  CHECK(error_of(".txt", "operation\n") == "program file 'FILE' ends neither in .csv nor in .json; its ending says which of the two it is");
  CHECK(error_of(".csv", "") == "program file 'FILE' holds no instructions; give every stage some");
  CHECK_THROWS_WITH_AS(read_programs("/nowhere/mine.csv"), "cannot read '/nowhere/mine.csv': No such file or directory", UsageError);
  const TemporaryFile folder(".csv");
  std::filesystem::create_directory(folder.path);
  CHECK_THROWS_WITH_AS(read_programs(folder.path), doctest::Contains("cannot read"), UsageError);
  const TemporaryFile file(".json");
  file.write(" ");
  std::filesystem::resize_file(file.path, (64 << 20) + 1);  // a hole, which takes no place on the disk
  CHECK_THROWS_WITH_AS(read_programs(file.path), doctest::Contains("more than the 67108864 it may have"), UsageError);
  std::string text = "operation\n";
  for (int i = 0; i < 1000000; ++i) text += "step\n";
  CHECK(read(".csv", text)[0].size() == 1000000);
  CHECK(error_of(".csv", text + "step") ==
        "FILE:1000002: a program file holds at most 1000000 instructions; write fewer mini-batches, training repeats them");
}

TEST_CASE("a file changed at random is read and audited, or refused with a sentence") {
  const std::vector<std::string> pieces = {"-1", "4095", "999999999999", "1e9", "stash", "predicted", "forward",  "backward_weight", "\n",
                                           ",",  "#",    "\"",           "{",   "[",     "null",      "\x00\xff", "\\u0000",         "keep",
                                           "0",  "1"};
  std::mt19937 random(1);
  auto below = [&](size_t limit) { return size_t(random()) % limit; };
  size_t read_well = 0, audited_well = 0, refused = 0;
  for (const std::string ending : {".csv", ".json"}) {
    const auto programs = make_programs(find_method("xpipe"), {3, 3, 2});
    const std::string good = write_programs(programs, program_format(ending));
    const TemporaryFile file(ending);
    for (int round = 0; round < 3000; ++round) {
      std::string text = good;
      for (size_t change = 0; change <= below(3); ++change) {
        const size_t at = below(text.size()), length = std::min(below(30), text.size() - at);
        switch (below(8)) {
          case 0: text[at] = char(below(256)); break;
          case 1: text.erase(at, length); break;
          case 2: text.insert(at, pieces[below(pieces.size())]); break;
          case 3: text.replace(at, 1, pieces[below(pieces.size())]); break;
          case 4: text.insert(below(text.size()), text.substr(at, length)); break;
          default:  // another number
            if (const size_t digit = text.find_first_of("0123456789", at); digit != std::string::npos) text[digit] = char('0' + below(10));
        }
        if (text.empty()) text = " ";
      }
      file.write(text);
      try {
        const std::vector<Program> changed = read_programs(file.path);
        ++read_well;
        audit(changed);
        ++audited_well;
      } catch (const UsageError& error) {
        ++refused;
        REQUIRE(std::string(error.what()).size() < 1000);
      }
    }
  }
  // The changes are neither all harmless nor all fatal.
  CHECK(read_well > 500);
  CHECK(audited_well > 100);
  CHECK(refused > 3000);
}
