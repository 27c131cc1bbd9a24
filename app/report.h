#pragma once
// report.html: a run on one page, with nothing outside it. Its pieces serve other reports, too.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace pipecast {

struct Point {
  double x, y, low = y, high = y;  // low to high: the band around the curve
};
struct Curve {
  std::string name;
  std::vector<Point> points;
};

std::string escaped(const std::string& text);  // as HTML
// An SVG of the curves over the epochs, with a legend; "" where there are no points.
std::string chart(const std::string& title, const std::vector<Curve>& curves);
// `body` is HTML, the rest text.
std::string page(const std::string& title, const std::string& body, const std::string& configuration);

// `metrics`: the lines of metrics.jsonl.
// more: HTML behind the curves.
std::string report_html(const std::string& title, const std::string& configuration, const std::vector<nlohmann::ordered_json>& metrics,
                        const std::string& more);

}  // namespace pipecast
