// What an audit tells people and programs: JSON, the table, the timeline as text and SVG; and where it draws a fault.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "engine/error.h"
#include "pipeline/plan/draw.h"

using namespace pipecast;

namespace {

std::vector<Program> programs_of(const std::string& method, const Setting& setting) { return make_programs(find_method(method), setting); }

Audit audit_of(const std::string& method, const Setting& setting) { return audit(programs_of(method, setting)); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

// The audit of programs that it refuses: what is drawn, and what is said.
std::pair<std::string, std::string> fault_of(const std::vector<Program>& programs, int most_copies = 0) {
  try {
    audit(programs, most_copies);
  } catch (const AuditFault& fault) {
    return {draw_text(programs.size(), fault), fault.what()};
  }
  return {};
}

}  // namespace

TEST_CASE("the JSON of an audit has the keys of its contract and nothing else") {
  const Audit result = audit_of("pipeoptim", {3, 4, 2, LookAheadMode::exact});
  const auto json = nlohmann::json::parse(audit_json("pipeoptim", result));
  auto keys = [](const nlohmann::json& object) {
    std::set<std::string> keys;
    for (const auto& item : object.items()) keys.insert(item.key());
    return keys;
  };
  CHECK(keys(json) == std::set<std::string>{"method", "stages", "copies", "frames", "passes"});
  CHECK(json["method"] == "pipeoptim");
  CHECK(json["stages"] == 3);
  CHECK(json["copies"] == std::vector<int>{2, 2, 1});
  CHECK(json["frames"] == std::vector<int>{3, 2, 1});
  REQUIRE(json["passes"].size() == result.passes.size());
  REQUIRE(result.passes.size() == 3 * 2 * 4 * 2);
  for (size_t p = 0; p < result.passes.size(); ++p) {
    const auto& found = json["passes"][p];
    const AuditedPass& pass = result.passes[p];
    CHECK(keys(found) == std::set<std::string>{"stage", "minibatch", "micro", "chunk", "pass", "reads", "version", "ahead", "live"});
    CHECK(found["stage"] == pass.stage);
    CHECK(found["minibatch"] == pass.minibatch);
    CHECK(found["micro"] == pass.micro);
    CHECK(found["chunk"] == 0);
    CHECK(found["pass"] == (pass.backward() ? "backward" : "forward"));
    CHECK(found["reads"] == to_string(pass.reads));
    CHECK(found["version"] == pass.version);
    CHECK(found["ahead"] == pass.ahead);
    CHECK(found["live"] == pass.live);
  }
}

TEST_CASE("the table of an audit, in full") {
  CHECK(audit_table("pipeoptim, look-ahead paper", audit_of("pipeoptim", {2, 3, 1, LookAheadMode::paper})) ==
        R"(pipeoptim, look-ahead paper: 2 stages, 3 mini-batches

stage                  0   1
copies of the weights  2   1
activation frames      2   1

F: forward, B: backward of a mini-batch
v2: the weights after 2 updates, v2+3: predicted 3 updates further
live: the newest; lag: the updates from the version of the forward to its backward

stage 0
  F0  reads predicted v0+1  (live v0, lag 0)
  F1  reads predicted v0+1  (live v0, lag 1)   B0  reads latest v0       (live v0)
  F2  reads predicted v1+1  (live v1, lag 1)   B1  reads latest v1       (live v1)
                                               B2  reads latest v2       (live v2)

stage 1
  F0  reads latest v0       (live v0, lag 0)   B0  reads latest v0       (live v0)
  F1  reads latest v1       (live v1, lag 0)   B1  reads latest v1       (live v1)
  F2  reads latest v2       (live v2, lag 0)   B2  reads latest v2       (live v2)

Every pass at its earliest, each one tick long:

time     0  1  2  3  4  5  6  7
stage 0  F0 F1 .  B0 F2 B1 .  B2
stage 1  .  F0 B0 F1 B1 F2 B2 .
)");
  const std::string small = audit_table("vanilla", audit_of("vanilla", {1, 1, 2}));
  CHECK(contains(small, "vanilla: 1 stage, 1 mini-batch of 2 micro-batches\n"));
  CHECK(contains(small, "  F0.1  reads latest v0  (live v0, lag 0)   B0.1  reads latest v0  (live v0)\n"));
  CHECK(contains(small, "stage 0  F0.0 B0.0 F0.1 B0.1\n"));

  std::istringstream wide(audit_table("pipeoptim", audit_of("pipeoptim", {16, 40, 2, LookAheadMode::released})));
  size_t lines = 0;
  for (std::string row; std::getline(wide, row); ++lines) CHECK(row.size() <= 140);
  CHECK(lines > 1000);

  CHECK(contains(audit_table("vanilla", audit_of("vanilla", {2, 0, 1})), "activation frames      0   0\n"));
}

TEST_CASE("the table says what the copies are, what is estimated, how old it is, and what the steps do") {
  auto table = [](const std::string& method, const Setting& setting) { return audit_table(method, audit_of(method, setting)); };
  std::string text = table("pipedream", {4, 8, 1});
  CHECK(
      contains(text, "copies of the weights  4   3   2   1\n  latest               1   1   1   1\n  stash                3   2   1   0\n"));
  CHECK(contains(text, "B1  reads stash v0   (live v1)"));
  CHECK_FALSE(contains(text, "steps:"));

  text = table("spectrain-v2", {4, 8, 1});
  CHECK(contains(text, "  predicted            1   1   1   0\n  stash "));
  CHECK(contains(text, "reads stash v0+3"));

  text = table("pipemare", {4, 8, 1, LookAheadMode::paper, 0, Recompute::never, 0, 0, 4});
  CHECK(contains(text, "B4  reads predicted v4-3  (live v4)"));
  CHECK(contains(text, "v5-3: estimated 3 updates back"));
  CHECK_FALSE(contains(text, "further"));
  CHECK(contains(text, "stage 0\n  steps: learning rate x 0.33 to 1.00\n"));  // 3 to the power of -1, ..., 0

  text = table("xpipe", {4, 4, 4});
  CHECK(contains(text, ", age 1  (live v"));
  CHECK(contains(text, "age 1: predicted 1 update before"));

  text = table("spectrain-v2", {4, 8, 1, LookAheadMode::released});
  CHECK(contains(text, "stage 0\n  steps: learning rate x 4.00\n"));
  CHECK(contains(text, "stage 3\n  F0"));
  text = table("spike-compensation", {4, 8, 1});
  CHECK(contains(text, "stage 0\n  steps: gradient taken as 0 to 3 updates late\n"));
  CHECK(contains(text, "stage 2\n  steps: gradient taken as 0 to 1 update late\n"));

  text = table("interleaved", {2, 1, 2});
  CHECK(contains(text, "F: forward, B: backward of a mini-batch.micro-batch, c1: on chunk 1, else on chunk 0\n"));
  CHECK(contains(text, "  F0.1c1  reads latest v0"));
  text = table("zero-bubble", {2, 1, 2});
  CHECK(contains(text, "F: forward, I: input half of the backward, W: weight half of the backward of"));
  CHECK(contains(text, "W0.0  reads no weights"));
  for (const Method& method : methods()) {
    CAPTURE(method.name);
    std::istringstream rows(table(method.name, {4, 12, 4}));
    for (std::string row; std::getline(rows, row);) CHECK(row.size() <= 140);
  }
  text = table("1f1b-flush", {2, 1, 2, LookAheadMode::paper, 0, Recompute::always});
  CHECK(contains(text, "R0.1  reads latest v0"));
  CHECK(contains(text, "R: forward once more"));
}

TEST_CASE("the timeline as SVG has a box per pass, a line per step, an arc per prediction from a step, and says what each reads") {
  for (int stages : {1, 4, 16}) {
    const Audit result = audit_of("pipeoptim", {stages, 20, 1});
    const std::string svg = draw_svg("a<b & c", result);
    CHECK(contains(svg, ">a&lt;b &amp; c, "));
    CHECK(count(svg, "<rect x=") == result.passes.size());
    CHECK(count(svg, "stroke-dasharray") == 0);
    CHECK(count(svg, "stroke-width=\"1.5\"") == 20 * size_t(stages));
    size_t predictions = 0, from_steps = 0;
    for (const AuditedPass& pass : result.passes)
      if (pass.reads == Reads::predicted) ++predictions, from_steps += pass.version > 0;
    CHECK(predictions == 20 * size_t(stages - 1));  // every forward but the last stage's
    CHECK(count(svg, "\u2192v") == predictions);
    CHECK(count(svg, "stroke=\"#b00\"") == from_steps);
    if (stages == 4) CHECK(contains(svg, ">v4\u2192v7</text>"));
  }
  CHECK(contains(draw_svg("pipedream", audit_of("pipedream", {4, 8, 1})), "stroke-dasharray"));
  CHECK(contains(draw_svg("pipemare", audit_of("pipemare", {4, 8, 1})), ">v4-3</text>"));
}

TEST_CASE("a picture is as wide as a page, however long the timeline") {
  for (int64_t minibatches : {8, 80, 800}) {
    const Audit result = audit_of("pipedream", {4, minibatches, 1});
    const std::string svg = draw_svg("pipedream", result);
    std::istringstream box(svg.substr(svg.find("viewBox=\"0 0 ") + 13));
    int width = 0;
    box >> width;
    CHECK(width <= 1500);
    for (size_t at = svg.find("<rect x=\""); at != std::string::npos; at = svg.find("<rect x=\"", at + 1))
      CHECK(std::stoi(svg.substr(at + 9)) < width);
    std::istringstream rows(draw_text(result));
    for (std::string row; std::getline(rows, row);) CHECK(row.size() <= 120);
  }
  CHECK_THROWS_WITH_AS(draw_text(audit_of("vanilla", {64, 40000, 1})), doctest::Contains("too large to draw"), UsageError);
}

TEST_CASE("a fault is drawn where it is, after what ran until then") {
  auto programs = programs_of("vanilla", {2, 2, 1});
  std::erase_if(programs[0], [](const Instruction& i) { return is_step(i.operation) && i.minibatch == 0; });
  CHECK(fault_of(programs).first ==
        "F: forward, B: backward of a mini-batch; !: the fault, or who waits for it\n"
        "\ntime     0  1  2  3  4  5\n"
        "stage 0  F0 F1 .  B0 .  !\n"
        "stage 1  .  F0 B0 F1 B1 .\n");
  // A deadlock before anything ran.
  programs = programs_of("vanilla", {2, 1, 1});
  std::swap(programs[0], programs[1]);
  programs[1].clear();
  programs[0] = {{Operation::receive_gradient, 0}, {Operation::backward, 0}};
  CHECK(fault_of(programs).first == "!: the fault, or who waits for it\n\ntime     0\nstage 0  !\nstage 1  .\n");
}

TEST_CASE("copies of the weights may be limited, and the first instruction that needs one more is named") {
  CHECK(fault_of(programs_of("pipedream", {4, 8, 1}), 4).second.empty());
  CHECK(fault_of(programs_of("pipeoptim", {4, 8, 1}), 2).second.empty());
  CHECK(fault_of(programs_of("vanilla", {4, 8, 1}), 1).second.empty());
  for (const std::string method : {"pipedream", "xpipe", "spectrain-v2"}) {
    CAPTURE(method);
    const auto programs = programs_of(method, {4, 8, 2});
    // Found here by counting: every slot is a copy, and so is the prediction.
    auto third_copy = [](const Program& program) {
      size_t position = 0;
      int slots = 0;
      bool predicts = false;
      for (;; ++position) {
        const Instruction& i = program.at(position);
        predicts = predicts || makes_prediction(i.operation);
        if (i.operation == Operation::stash) slots = std::max(slots, i.slot + 1);
        if (1 + slots + (predicts ? 1 : 0) == 3) return position;
      }
    };
    // Which stage gets there first is the machine's affair.
    const std::string before = "the program of stage ", sentence = fault_of(programs, 2).second;
    REQUIRE(sentence.starts_with(before));
    const Program& program = programs.at(size_t(std::stoi(sentence.substr(before.size()))));
    const size_t position = third_copy(program);
    CHECK(
        contains(sentence, "is wrong at instruction " + std::to_string(position) + ", " + to_string(program[position].operation) + " of"));
    CHECK(contains(fault_of(programs, 2).second, "it needs copy number 3 of the weights, and at most 2 may be kept"));
    CHECK(contains(fault_of(programs, 2).first, "!"));
  }
}
