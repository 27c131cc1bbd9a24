#include <algorithm>
#include <sstream>
#include <utility>

#include "pipeline/plan/draw.h"
#include "pipeline/plan/drawing.h"

namespace pipecast {
namespace {

std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) result += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  return result;
}

// Ahead there is a version that the prediction is meant to be; back there may be none, before the first.
std::string read_version(const AuditedPass& pass) {
  return pass.ahead > 0 ? "v" + std::to_string(pass.version) + "\u2192v" + std::to_string(pass.version + pass.ahead) : version(pass);
}

constexpr int64_t box_height = 34, row_height = 46, left = 76, heading = 88, gap = 5, page_width = 1500, bold_letter = 8, letter = 7;
const std::string middle = " text-anchor=\"middle\"";

class Picture {
 public:
  // Boxes as wide as the longest text needs, rows with room for arcs between them, and blocks one below the other that fit on a page.
  explicit Picture(const Audit& audit) : audit_(audit), summary_(audit.passes), stages_(int64_t(audit.frames.size())) {
    int64_t text_width = 28;
    for (const AuditedPass& pass : audit.passes) {
      const size_t letters = read_version(pass).size() - (pass.ahead > 0 ? 2 : 0);  // an arrow is 3 bytes
      text_width = std::max({text_width, bold_letter * int64_t(summary_.label(pass).size()), letter * int64_t(letters)});
    }
    width_ = text_width + 6 + gap;
    const int64_t most_columns = (page_width - left - gap) / width_;
    blocks_ = std::max<int64_t>(1, (summary_.end + most_columns - 1) / most_columns);
    columns_ = std::max<int64_t>(1, (summary_.end + blocks_ - 1) / blocks_);
    block_height_ = stages_ * row_height + 38;
  }

  std::string draw(const std::string& title) {
    svg_ << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << std::max<int64_t>(760, left + columns_ * width_ + gap) << " "
         << heading + blocks_ * block_height_ - 10 << "\" font-family=\"sans-serif\" font-size=\"12\">\n"
         << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
    legend(title);
    axes();
    for (const AuditedPass& pass : audit_.passes) box(pass);
    steps();
    for (const AuditedPass& pass : audit_.passes) arc(pass);
    svg_ << "</svg>\n";
    return svg_.str();
  }

 private:
  int64_t x_of(int64_t time) const { return left + time % columns_ * width_; }
  int64_t y_of(int64_t time, int stage) const { return heading + time / columns_ * block_height_ + stage * row_height; }

  void text(int64_t x, int64_t y, const std::string& style, const std::string& what) {
    svg_ << "<text x=\"" << x << "\" y=\"" << y << "\"" << style << ">" << escaped(what) << "</text>\n";
  }

  void legend(const std::string& title) {
    text(10, 22, " font-size=\"15\" font-weight=\"bold\"", title + ", " + number(stages_, "stage", "stages") + ", time to the right");
    if (!audit_.passes.empty()) text(10, 40, "", summary_.letters());
    text(10, 56, "",
         std::string("In a box, the version of the weights that it reads") +
             (summary_.most_ahead > 0 ? ", \u2192 the version it predicts" : "") +
             (summary_.least_ahead < 0 ? ", v5-3: estimated 3 updates back" : "") + (summary_.stash ? ", dotted: from the stash" : "") +
             (audit_.steps.empty() ? "" : "; a line behind a box: an update") +
             (summary_.most_ahead > 0 || summary_.least_ahead < 0 ? ", an arc from it: what is predicted then" : ""));
  }

  void axes() {
    for (int64_t block = 0; block < blocks_; ++block) {
      const int64_t begin = block * columns_;
      for (int k = 0; k < int(stages_); ++k) text(10, y_of(begin, k) + box_height / 2 + 4, "", "stage " + std::to_string(k));
      for (int64_t time = begin; time < std::min(summary_.end, begin + columns_); ++time)
        text(x_of(time) + (width_ - gap) / 2, y_of(time, 0) - 15, middle + " font-size=\"9\" fill=\"#999\"", std::to_string(time));
    }
  }

  void box(const AuditedPass& pass) {
    const int64_t x = x_of(pass.time), y = y_of(pass.time, pass.stage), centre = x + (width_ - gap) / 2;
    const Kind& shade = kind(pass.operation);
    // Hues a golden angle apart, so that neighbours differ.
    svg_ << "<rect x=\"" << x << "\" y=\"" << y << "\" width=\"" << width_ - gap << "\" height=\"" << box_height
         << "\" rx=\"3\" fill=\"hsl(" << pass.minibatch % 360 * 137 % 360 << "," << shade.saturation << "%," << shade.lightness
         << "%)\" stroke=\"#444\"" << (pass.reads == Reads::stash ? " stroke-dasharray=\"3 3\"" : "") << "/>\n";
    text(centre, y + 14, middle + " font-weight=\"bold\"", summary_.label(pass));
    if (reads_weights(pass)) text(centre, y + 28, middle + " font-size=\"11\"", read_version(pass));
  }

  void steps() {
    std::map<int, int64_t> updates;  // by stage
    for (const AuditedStep& step : audit_.steps) {
      time_of_version_[{step.stage, ++updates[step.stage]}] = step.time;
      const int64_t x = x_of(step.time - 1) + width_ - gap / 2 - 1, y = y_of(step.time - 1, step.stage);
      svg_ << "<path d=\"M" << x << " " << y - 3 << "V" << y + box_height + 3 << "\" stroke=\"#444\" stroke-width=\"1.5\"/>\n";
    }
  }

  // From the step that a prediction starts from to the pass that reads it.
  void arc(const AuditedPass& pass) {
    const auto step = time_of_version_.find({pass.stage, pass.version});
    if (pass.reads != Reads::predicted || step == time_of_version_.end()) return;
    // Where the step is in a block above, from the edge of this one.
    const int64_t edge = pass.time / columns_ * columns_, end = x_of(pass.time) + (width_ - gap) / 2, y = y_of(pass.time, pass.stage);
    const int64_t begin = step->second <= edge ? left - gap / 2 - 1 : x_of(step->second - 1) + width_ - gap / 2 - 1;
    svg_ << "<path d=\"M" << begin << " " << y - 3 << "C" << begin << " " << y - 11 << " " << end << " " << y - 11 << " " << end << " "
         << y - 3 << "\" fill=\"none\" stroke=\"#b00\"/><path d=\"M" << end - 3 << " " << y - 5 << "l3 5l3 -5z\" fill=\"#b00\"/>\n";
  }

  const Audit& audit_;
  Summary summary_;
  int64_t stages_, width_ = 0, blocks_ = 0, columns_ = 0, block_height_ = 0;
  std::map<std::pair<int, int64_t>, int64_t> time_of_version_;  // of a stage's update
  std::ostringstream svg_;
};

}  // namespace

std::string draw_svg(const std::string& title, const Audit& audit) {
  check_size(audit.frames.size(), Summary(audit.passes).end);
  return Picture(audit).draw(title);
}

}  // namespace pipecast
