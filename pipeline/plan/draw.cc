#include "pipeline/plan/draw.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <utility>

namespace pipecast {
namespace {

std::string padded(std::string cell, size_t width) { return cell.append(width - std::min(width, cell.size()), ' '); }

std::string line(const std::string& cells) { return cells.substr(0, cells.find_last_not_of(' ') + 1) + "\n"; }

std::string number(int64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

// "2", or "0 to 3" for what is not the same everywhere.
std::string range(const std::string& least, const std::string& most) { return least == most ? least : least + " to " + most; }

// A kind of pass: its letter and its shade.
struct Kind {
  std::string letter, meaning;
  int saturation, lightness;  // percent
};
const Kind& kind(Operation operation) {
  static const std::map<Operation, Kind> kinds = {
      {Operation::forward, {"F", "forward", 55, 83}},
      {Operation::recompute, {"R", "forward once more (recompute)", 45, 92}},
      {Operation::backward, {"B", "backward", 45, 62}},
      {Operation::backward_input, {"I", "input half of the backward", 45, 62}},
      {Operation::backward_weight, {"W", "weight half of the backward", 30, 74}},
  };
  return kinds.at(operation);
}

// What there is to say of all passes together.
struct Summary {
  int64_t minibatches = 0, end = 0;  // of time
  int micro_batches = 1;
  int last_chunk = 0, most_ahead = 0, least_ahead = 0;
  std::set<Operation> kinds;
  bool stash = false, ages = false;

  explicit Summary(const std::vector<AuditedPass>& passes) {
    for (const AuditedPass& pass : passes) {
      minibatches = std::max(minibatches, pass.minibatch + 1);
      end = std::max(end, pass.time + 1);
      micro_batches = std::max(micro_batches, pass.micro + 1);
      last_chunk = std::max(last_chunk, pass.chunk);
      most_ahead = std::max(most_ahead, pass.ahead);
      least_ahead = std::min(least_ahead, pass.ahead);
      kinds.insert(pass.operation);
      stash = stash || pass.reads == Reads::stash;
      ages = ages || (pass.reads == Reads::predicted && pass.live > pass.version);
    }
  }
  // "F3", with micro-batches "F3.1", on chunk 2 "F3.1c2".
  std::string label(const AuditedPass& pass) const {
    return kind(pass.operation).letter + std::to_string(pass.minibatch) + (micro_batches > 1 ? "." + std::to_string(pass.micro) : "") +
           (pass.chunk > 0 ? "c" + std::to_string(pass.chunk) : "");
  }
  // The letters that occur.
  std::string letters() const {
    std::string text;
    for (Operation operation : kinds) text += (text.empty() ? "" : ", ") + kind(operation).letter + ": " + kind(operation).meaning;
    return text + " of a mini-batch" + (micro_batches > 1 ? ".micro-batch" : "") +
           (last_chunk > 0 ? ", c1: on chunk 1, else on chunk 0" : "");
  }
};

// The weight half of a backward reads activations alone.
bool reads_weights(const AuditedPass& pass) { return pass.operation != Operation::backward_weight; }

bool predicted(const AuditedPass& pass) { return pass.reads == Reads::predicted || pass.ahead != 0; }

// "v0+3"
std::string version(const AuditedPass& pass) {
  return "v" + std::to_string(pass.version) + (predicted(pass) ? (pass.ahead < 0 ? "" : "+") + std::to_string(pass.ahead) : "");
}

// "reads stash v0+3"
std::string reads(const AuditedPass& pass) {
  if (!reads_weights(pass)) return "reads no weights";
  return "reads " + to_string(pass.reads) + " " + version(pass) +
         (pass.reads == Reads::predicted && pass.live > pass.version ? ", age " + std::to_string(pass.live - pass.version) : "");
}

// A row of numbers, one per stage.
std::string stage_row(const std::string& what, const std::vector<int>& values) {
  std::string row = padded(what, 23);
  for (int value : values) row += padded(std::to_string(value), 4);
  return line(row);
}

// The copies; where there is a stash, what they are.
std::string copies_rows(const Audit& audit) {
  std::string rows = stage_row("copies of the weights", audit.copies);
  if (std::all_of(audit.slots.begin(), audit.slots.end(), [](int slots) { return slots == 0; })) return rows;
  std::vector<int> latest(audit.copies.size(), 1), predicted;
  for (size_t k = 0; k < audit.copies.size(); ++k) predicted.push_back(audit.copies[k] - 1 - audit.slots[k]);
  rows += stage_row("  latest", latest);
  if (std::any_of(predicted.begin(), predicted.end(), [](int copies) { return copies > 0; })) rows += stage_row("  predicted", predicted);
  return rows + stage_row("  stash", audit.slots);
}

// What the steps of a stage do beyond their optimizer's update; empty where that is nothing.
std::string steps_line(const Audit& audit, int stage) {
  float least_scale = 0, most_scale = 0;
  int least_late = 0, most_late = 0;
  bool any = false;
  for (const AuditedStep& step : audit.steps) {
    if (step.stage != stage) continue;
    least_scale = any ? std::min(least_scale, step.scale) : step.scale, most_scale = std::max(most_scale, step.scale);
    least_late = any ? std::min(least_late, step.late) : step.late, most_late = std::max(most_late, step.late);
    any = true;
  }
  std::string text;
  if (any && (least_scale != 1 || most_scale != 1)) {
    auto factor = [](float scale) {
      char buffer[64];
      std::snprintf(buffer, sizeof buffer, "%.2f", double(scale));
      return std::string(buffer);
    };
    text = "learning rate x " + range(factor(least_scale), factor(most_scale));
  }
  if (least_late != 0 || most_late != 0)
    text += (text.empty() ? "" : ", ") + std::string("gradient taken as ") + range(std::to_string(least_late), std::to_string(most_late)) +
            (most_late == 1 ? " update" : " updates") + " late";
  return text.empty() ? "" : "  steps: " + text + "\n";
}

// A line per forward, with what runs between it and the next one.
std::string versions_table(const Summary& summary, const Audit& audit) {
  std::map<std::pair<int, Tag>, int64_t> live_at_backward;
  auto key = [](const AuditedPass& pass) { return std::pair(pass.stage, Tag{pass.minibatch, pass.micro, pass.chunk}); };
  size_t label_width = 0, reads_width = 0, forward_width = 0;
  for (const AuditedPass& pass : audit.passes) {
    if (pass.backward()) live_at_backward[key(pass)] = pass.live;
    label_width = std::max(label_width, summary.label(pass).size());
    reads_width = std::max(reads_width, reads(pass).size());
  }
  auto is_forward = [](const AuditedPass& pass) { return pass.operation == Operation::forward; };
  auto cell = [&](const AuditedPass& pass) {
    std::string what =
        padded(summary.label(pass), label_width) + "  " + padded(reads(pass), reads_width) + "  (live v" + std::to_string(pass.live);
    if (is_forward(pass)) what += ", lag " + std::to_string(live_at_backward.at(key(pass)) - pass.version);
    return what + ")";
  };
  for (const AuditedPass& pass : audit.passes)
    if (is_forward(pass)) forward_width = std::max(forward_width, cell(pass).size());

  std::string table;
  auto pass = audit.passes.begin();
  for (size_t k = 0; k < audit.frames.size(); ++k) {
    table += "\nstage " + std::to_string(k) + "\n" + steps_line(audit, int(k));
    std::string row;
    for (; pass != audit.passes.end() && pass->stage == int(k); ++pass) {
      const size_t column = is_forward(*pass) ? 2 : 2 + forward_width + 3;
      if (row.size() >= column) table += line(row), row.clear();
      row = padded(row, column) + cell(*pass);
    }
    if (!row.empty()) table += line(row);
  }
  return table;
}

// A picture of nothing but dots helps nobody and fills the disk.
void check_size(size_t stages, int64_t end) {
  if (stages * size_t(end) > 1 << 22)
    throw UsageError("a timeline of " + std::to_string(stages) + " stages and " + std::to_string(end) +
                     " passes in time is too large to draw; draw fewer mini-batches, or take audit --json");
}

std::string timeline(size_t stages, const std::vector<AuditedPass>& passes, const std::vector<AuditFault::Mark>& marks) {
  const Summary summary(passes);
  std::map<std::pair<int, int64_t>, std::string> cells;
  int64_t end = summary.end;
  for (const AuditedPass& pass : passes) cells[{pass.stage, pass.time}] = summary.label(pass);
  for (const AuditFault::Mark& mark : marks) cells[{mark.stage, mark.time}] = "!", end = std::max(end, mark.time + 1);
  check_size(stages, end);
  size_t width = std::to_string(end).size() + 1;
  for (const auto& [place, cell] : cells) width = std::max(width, cell.size() + 1);
  const size_t name_width = std::to_string(stages).size() + 8, page_width = 120;
  const int64_t columns = int64_t((page_width - name_width) / width);

  std::string drawing;
  for (int64_t begin = 0; begin < end; begin += columns) {
    const int64_t stop = std::min(end, begin + columns);
    std::string row = padded("time", name_width);
    for (int64_t time = begin; time < stop; ++time) row += padded(std::to_string(time), width);
    drawing += "\n" + line(row);
    for (size_t k = 0; k < stages; ++k) {
      row = padded("stage " + std::to_string(k), name_width);
      for (int64_t time = begin; time < stop; ++time) {
        auto cell = cells.find({int(k), time});
        row += padded(cell == cells.end() ? "." : cell->second, width);
      }
      drawing += line(row);
    }
  }
  return drawing;
}

std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) result += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  return result;
}

}  // namespace

std::string draw_text(const Audit& audit) {
  const Summary summary(audit.passes);
  return (audit.passes.empty() ? "" : summary.letters() + "\n") + timeline(audit.frames.size(), audit.passes, {});
}

std::string draw_text(size_t stages, const AuditFault& fault) {
  const Summary summary(fault.passes);
  return (fault.passes.empty() ? "" : summary.letters() + "; ") + "!: the fault, or who waits for it\n" +
         timeline(stages, fault.passes, fault.marks);
}

std::string audit_table(const std::string& title, const Audit& audit) {
  const Summary summary(audit.passes);
  std::vector<int> stages;
  for (size_t k = 0; k < audit.frames.size(); ++k) stages.push_back(int(k));

  std::string table =
      title + ": " + number(int64_t(stages.size()), "stage", "stages") + ", " + number(summary.minibatches, "mini-batch", "mini-batches");
  if (summary.micro_batches > 1) table += " of " + std::to_string(summary.micro_batches) + " micro-batches";
  table += "\n\n" + stage_row("stage", stages) + copies_rows(audit) + stage_row("activation frames", audit.frames);
  if (audit.passes.empty()) return table;
  table += "\n" + summary.letters() + "\nv2: the weights after 2 updates";
  if (summary.most_ahead > 0) table += ", v2+3: predicted 3 updates further";
  if (summary.least_ahead < 0) table += ", v5-3: estimated 3 updates back";
  if (summary.ages) table += ", age 1: predicted 1 update before";
  if (summary.stash) table += ", stash: kept from before";
  table += "\nlive: the newest; lag: the updates from the version of the forward to its backward\n" + versions_table(summary, audit);
  table += "\nEvery pass at its earliest, each one tick long:\n" + timeline(audit.frames.size(), audit.passes, {});
  return table;
}

std::string draw_svg(const std::string& title, const Audit& audit) {
  const Summary summary(audit.passes);
  const int64_t stages = int64_t(audit.frames.size());
  check_size(size_t(stages), summary.end);
  // Ahead there is a version that the prediction is meant to be; back there may be none, before the first.
  auto read = [](const AuditedPass& pass) {
    return pass.ahead > 0 ? "v" + std::to_string(pass.version) + "\u2192v" + std::to_string(pass.version + pass.ahead) : version(pass);
  };
  // Boxes as wide as the longest text needs, rows with room for arcs between them, and blocks one below the other that fit on a page.
  constexpr int64_t box_height = 34, row_height = 46, left = 76, heading = 88, gap = 5, page_width = 1500, bold_letter = 8, letter = 7;
  int64_t text_width = 28;
  for (const AuditedPass& pass : audit.passes) {
    const size_t letters = read(pass).size() - (pass.ahead > 0 ? 2 : 0);  // an arrow is 3 bytes
    text_width = std::max({text_width, bold_letter * int64_t(summary.label(pass).size()), letter * int64_t(letters)});
  }
  const int64_t width = text_width + 6 + gap, most_columns = (page_width - left - gap) / width;
  const int64_t blocks = std::max<int64_t>(1, (summary.end + most_columns - 1) / most_columns);
  const int64_t columns = std::max<int64_t>(1, (summary.end + blocks - 1) / blocks), block_height = stages * row_height + 38;
  auto x_of = [&](int64_t time) { return left + time % columns * width; };
  auto y_of = [&](int64_t time, int stage) { return heading + time / columns * block_height + stage * row_height; };

  std::ostringstream svg;
  auto text = [&](int64_t x, int64_t y, const std::string& style, const std::string& what) {
    svg << "<text x=\"" << x << "\" y=\"" << y << "\"" << style << ">" << escaped(what) << "</text>\n";
  };
  svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << std::max<int64_t>(760, left + columns * width + gap) << " "
      << heading + blocks * block_height - 10 << "\" font-family=\"sans-serif\" font-size=\"12\">\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  text(10, 22, " font-size=\"15\" font-weight=\"bold\"", title + ", " + number(stages, "stage", "stages") + ", time to the right");
  if (!audit.passes.empty()) text(10, 40, "", summary.letters());
  text(10, 56, "",
       std::string("In a box, the version of the weights that it reads") +
           (summary.most_ahead > 0 ? ", \u2192 the version it predicts" : "") +
           (summary.least_ahead < 0 ? ", v5-3: estimated 3 updates back" : "") + (summary.stash ? ", dotted: from the stash" : "") +
           (audit.steps.empty() ? "" : "; a line behind a box: an update") +
           (summary.most_ahead > 0 || summary.least_ahead < 0 ? ", an arc from it: what is predicted then" : ""));
  const std::string middle = " text-anchor=\"middle\"";
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = block * columns;
    for (int k = 0; k < int(stages); ++k) text(10, y_of(begin, k) + box_height / 2 + 4, "", "stage " + std::to_string(k));
    for (int64_t time = begin; time < std::min(summary.end, begin + columns); ++time)
      text(x_of(time) + (width - gap) / 2, y_of(time, 0) - 15, middle + " font-size=\"9\" fill=\"#999\"", std::to_string(time));
  }
  for (const AuditedPass& pass : audit.passes) {
    const int64_t x = x_of(pass.time), y = y_of(pass.time, pass.stage), centre = x + (width - gap) / 2;
    const Kind& shade = kind(pass.operation);
    // Hues a golden angle apart, so that neighbours differ.
    svg << "<rect x=\"" << x << "\" y=\"" << y << "\" width=\"" << width - gap << "\" height=\"" << box_height << "\" rx=\"3\" fill=\"hsl("
        << pass.minibatch % 360 * 137 % 360 << "," << shade.saturation << "%," << shade.lightness << "%)\" stroke=\"#444\""
        << (pass.reads == Reads::stash ? " stroke-dasharray=\"3 3\"" : "") << "/>\n";
    text(centre, y + 14, middle + " font-weight=\"bold\"", summary.label(pass));
    if (reads_weights(pass)) text(centre, y + 28, middle + " font-size=\"11\"", read(pass));
  }
  std::map<std::pair<int, int64_t>, int64_t> time_of_version;
  std::map<int, int64_t> updates;  // by stage
  for (const AuditedStep& step : audit.steps) {
    time_of_version[{step.stage, ++updates[step.stage]}] = step.time;
    const int64_t x = x_of(step.time - 1) + width - gap / 2 - 1, y = y_of(step.time - 1, step.stage);
    svg << "<path d=\"M" << x << " " << y - 3 << "V" << y + box_height + 3 << "\" stroke=\"#444\" stroke-width=\"1.5\"/>\n";
  }
  for (const AuditedPass& pass : audit.passes) {
    const auto step = time_of_version.find({pass.stage, pass.version});
    if (pass.reads != Reads::predicted || step == time_of_version.end()) continue;
    // Where the step is in a block above, from the edge of this one.
    const int64_t edge = pass.time / columns * columns, end = x_of(pass.time) + (width - gap) / 2, y = y_of(pass.time, pass.stage);
    const int64_t begin = step->second <= edge ? left - gap / 2 - 1 : x_of(step->second - 1) + width - gap / 2 - 1;
    svg << "<path d=\"M" << begin << " " << y - 3 << "C" << begin << " " << y - 11 << " " << end << " " << y - 11 << " " << end << " "
        << y - 3 << "\" fill=\"none\" stroke=\"#b00\"/><path d=\"M" << end - 3 << " " << y - 5 << "l3 5l3 -5z\" fill=\"#b00\"/>\n";
  }
  svg << "</svg>\n";
  return svg.str();
}

}  // namespace pipecast
