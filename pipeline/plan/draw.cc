#include "pipeline/plan/draw.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "pipeline/plan/drawing.h"

namespace pipecast {
namespace {

std::string padded(std::string cell, size_t width) { return cell.append(width - std::min(width, cell.size()), ' '); }

std::string line(const std::string& cells) { return cells.substr(0, cells.find_last_not_of(' ') + 1) + "\n"; }

// "2", or "0 to 3" for what is not the same everywhere.
std::string range(const std::string& least, const std::string& most) { return least == most ? least : least + " to " + most; }

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

}  // namespace pipecast
