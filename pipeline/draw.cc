#include "pipeline/draw.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

namespace pipecast {
namespace {

std::string padded(std::string cell, size_t width) { return cell.append(width - std::min(width, cell.size()), ' '); }

std::string line(const std::string& cells) { return cells.substr(0, cells.find_last_not_of(' ') + 1) + "\n"; }

std::string number(int64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

// "F3", with micro-batches "F3.1".
std::string label(const Setting& setting, const AuditedPass& pass) {
  return (pass.backward() ? "B" : "F") + std::to_string(pass.minibatch) + (setting.micro_batches > 1 ? "." + std::to_string(pass.micro) : "");
}

// A row of numbers, one per stage.
std::string stage_row(const std::string& what, const std::vector<int>& values) {
  std::string row = padded(what, 23);
  for (int value : values) row += padded(std::to_string(value), 4);
  return line(row);
}

// A line per forward, with the backwards that run between it and the next one.
std::string versions_table(const Setting& setting, const Audit& audit) {
  std::map<std::pair<int, Tag>, int64_t> live_at_backward;
  for (const AuditedPass& pass : audit.passes)
    if (pass.backward()) live_at_backward[{pass.stage, {pass.minibatch, pass.micro, pass.chunk}}] = pass.live;

  size_t label_width = 0, reads_width = 0, forward_width = 0;
  auto reads = [](const AuditedPass& pass) {
    return "reads " + to_string(pass.reads) + " v" + std::to_string(pass.version) +
           (pass.reads == Reads::predicted ? "+" + std::to_string(pass.ahead) : "");
  };
  for (const AuditedPass& pass : audit.passes) {
    label_width = std::max(label_width, label(setting, pass).size());
    reads_width = std::max(reads_width, reads(pass).size());
  }
  auto cell = [&](const AuditedPass& pass) {
    std::string what =
        padded(label(setting, pass), label_width) + "  " + padded(reads(pass), reads_width) + "  (live v" + std::to_string(pass.live);
    if (!pass.backward()) what += ", lag " + std::to_string(live_at_backward[{pass.stage, {pass.minibatch, pass.micro, pass.chunk}}] - pass.version);
    return what + ")";
  };
  for (const AuditedPass& pass : audit.passes)
    if (!pass.backward()) forward_width = std::max(forward_width, cell(pass).size());

  std::string table;
  for (size_t k = 0; k < audit.frames.size(); ++k) {
    table += "\nstage " + std::to_string(k) + "\n";
    std::string row;
    for (const AuditedPass& pass : audit.passes) {
      if (pass.stage != int(k)) continue;
      const size_t column = pass.backward() ? 2 + forward_width + 3 : 2;
      if (row.size() >= column) table += line(row), row.clear();
      row = padded(row, column) + cell(pass);
    }
    if (!row.empty()) table += line(row);
  }
  return table;
}

// Colours of mini-batches: a golden angle apart, so that neighbours differ.
std::string colour(int64_t minibatch, bool backward) {
  const int64_t hue = minibatch * 137 % 360;
  return "hsl(" + std::to_string(hue) + (backward ? ",45%,62%)" : ",55%,82%)");
}

}  // namespace

std::string draw_text(const Setting& setting, const Audit& audit) {
  const size_t stages = audit.frames.size(), page_width = 120;
  std::map<std::pair<int, int64_t>, std::string> cells;
  int64_t end = 0;
  size_t width = 0;
  for (const AuditedPass& pass : audit.passes) {
    cells[{pass.stage, pass.time}] = label(setting, pass);
    end = std::max(end, pass.time + 1);
    width = std::max(width, label(setting, pass).size() + 1);
  }
  width = std::max(width, std::to_string(end).size() + 1);
  const size_t name_width = std::to_string(stages).size() + 8;
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

std::string draw_svg(const std::string& method, const Setting& setting, const Audit& audit) {
  constexpr int64_t width = 46, height = 40, left = 76, top = 34, gap = 4;
  const int64_t stages = int64_t(audit.frames.size());
  int64_t end = 0;
  for (const AuditedPass& pass : audit.passes) end = std::max(end, pass.time + 1);
  std::ostringstream svg;
  svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << left + end * width + 10 << " " << top + stages * height + 10
      << "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\">"
      << method << ", " << number(setting.stages, "stage", "stages")
      << ", time to the right; F forward, B backward, below the version it reads</text>\n";
  for (int64_t k = 0; k < stages; ++k) svg << "<text x=\"10\" y=\"" << top + k * height + height / 2 + 4 << "\">stage " << k << "</text>\n";
  for (const AuditedPass& pass : audit.passes) {
    const int64_t x = left + pass.time * width, y = top + pass.stage * height;
    svg << "<rect x=\"" << x << "\" y=\"" << y << "\" width=\"" << width - gap << "\" height=\"" << height - gap << "\" rx=\"3\" fill=\""
        << colour(pass.minibatch, pass.backward()) << "\" stroke=\"#444\"" << (pass.reads == Reads::stash ? " stroke-dasharray=\"3 3\"" : "")
        << "/>\n<text x=\"" << x + (width - gap) / 2 << "\" y=\"" << y + 15 << "\" text-anchor=\"middle\" font-weight=\"bold\">"
        << label(setting, pass) << "</text>\n<text x=\"" << x + (width - gap) / 2 << "\" y=\"" << y + 30
        << "\" text-anchor=\"middle\" font-size=\"11\">v" << pass.version;
    if (pass.reads == Reads::predicted) svg << "\u2192v" << pass.version + pass.ahead;
    svg << "</text>\n";
  }
  svg << "</svg>\n";
  return svg.str();
}

std::string audit_table(const std::string& method, const Setting& setting, const Audit& audit) {
  std::vector<int> stages;
  for (size_t k = 0; k < audit.frames.size(); ++k) stages.push_back(int(k));
  const bool predicts =
      std::any_of(audit.passes.begin(), audit.passes.end(), [](const AuditedPass& pass) { return pass.reads == Reads::predicted; });

  std::string table =
      method + ": " + number(setting.stages, "stage", "stages") + ", " + number(setting.minibatches, "mini-batch", "mini-batches");
  if (setting.micro_batches > 1) table += " of " + std::to_string(setting.micro_batches) + " micro-batches";
  if (predicts) table += ", look-ahead " + to_string(setting.look_ahead);
  table +=
      "\n\n" + stage_row("stage", stages) + stage_row("copies of the weights", audit.copies) + stage_row("activation frames", audit.frames);
  if (audit.passes.empty()) return table;
  table += "\nF: forward, B: backward of a mini-batch" + std::string(setting.micro_batches > 1 ? ".micro-batch" : "") +
           "; v2: the weights after 2 updates" + (predicts ? ", v2+3: predicted 3 updates further" : "") +
           "; live: the newest;\nlag: the updates from the version of the forward to its backward\n";
  table += versions_table(setting, audit);
  table += "\nEvery pass at its earliest, each one tick long:\n" + draw_text(setting, audit);
  return table;
}

}  // namespace pipecast
