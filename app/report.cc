#include "app/report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "app/options.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* colours[] = {"#1f5fbf", "#c8501e", "#2a8a4a", "#8a3fa8", "#a87a00", "#00808a", "#b02a60", "#555555"};

// A step of 1, 2 or 5 times a power of ten that divides `range` into at most five.
double tick(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 5)));
  for (double factor : {1, 2, 5})
    if (range / (factor * power) <= 5.0001) return factor * power;
  return 10 * power;
}

bool is_finite(const Json& value) { return value.is_number() && std::isfinite(value.get<double>()); }

// The values under a key of all lines that have it, over the epochs done.
Curve curve(const std::string& name, const std::vector<Json>& lines, const std::string& key, double scale = 1) {
  Curve curve{name, {}};
  for (const Json& line : lines)
    if (line.contains(key) && is_finite(line[key]))
      curve.points.push_back({line[line["event"] == "step" ? "epochs" : "epoch"].get<double>(), scale * line[key].get<double>()});
  return curve;
}

// A few hundred points of a curve at most, evenly spread.
Curve thinned(const Curve& curve) {
  const size_t stride = 1 + curve.points.size() / 400;
  Curve thin{curve.name, {}};
  for (size_t i = stride - 1; i < curve.points.size(); i += stride) thin.points.push_back(curve.points[i]);
  return thin;
}

// The same, a curve per stage.
std::vector<Curve> stage_curves(const std::vector<Json>& epochs, const std::string& key, double scale) {
  std::vector<Curve> curves;
  for (const Json& epoch : epochs) {
    if (!epoch.contains("stages")) continue;
    for (size_t k = 0; k < epoch["stages"].size(); ++k) {
      if (curves.size() <= k) curves.push_back({"stage " + std::to_string(k), {}});
      const Json& value = epoch["stages"][k][key];
      if (is_finite(value)) curves[k].points.push_back({epoch["epoch"].get<double>(), scale * value.get<double>()});
    }
  }
  return curves;
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string safe;
  for (char c : text) safe += c == '<' ? "&lt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return safe;
}

std::string chart(const std::string& title, const std::vector<Curve>& curves) {
  constexpr double width = 460, height = 250, left = 58, right = 12, top = 30, bottom = 34;
  double x0 = INFINITY, x1 = -INFINITY, y0 = 0, y1 = 0;
  for (const Curve& curve : curves)
    for (const Point& p : curve.points) x0 = std::min(x0, p.x), x1 = std::max(x1, p.x), y1 = std::max(y1, p.high), y0 = std::min(y0, p.low);
  if (x1 < x0) return "";
  if (x1 == x0) x0 -= .5, x1 += .5;
  if (y1 == y0) y1 = y0 + 1;
  const double y_step = tick(y1 - y0), x_step = std::max(1.0, tick(x1 - x0));
  y1 = std::ceil(y1 / y_step - 1e-9) * y_step;
  auto x = [&](double value) { return left + (value - x0) / (x1 - x0) * (width - left - right); };
  auto y = [&](double value) { return height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom); };

  std::string svg = format("<figure><svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">", width, height, title.c_str());
  svg += format("<text x=\"%g\" y=\"16\" class=\"title\">%s</text>", left, title.c_str());
  for (double value = std::ceil(y0 / y_step) * y_step; value <= y1 + y_step / 2; value += y_step)
    svg += format("<path d=\"M%g %.1fH%g\" class=\"grid\"/><text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>", left, y(value),
                  width - right, left - 6, y(value) + 4, std::abs(value) < y_step / 2 ? 0 : value);
  for (double value = std::ceil(x0 / x_step) * x_step; value <= x1; value += x_step)
    svg += format("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%.6g</text>", x(value), height - bottom + 16, value);
  svg += format("<text x=\"%g\" y=\"%g\" text-anchor=\"end\">epoch</text>", width - right, height - 4);
  std::string legend;
  for (size_t i = 0; i < curves.size(); ++i) {
    if (curves[i].points.empty()) continue;
    const char* colour = colours[i % std::size(colours)];
    const std::string name = escaped(curves[i].name);
    std::string line, upper, lower;
    for (const Point& p : curves[i].points) {
      upper += format("%s%.1f %.1f", upper.empty() ? "M" : "L", x(p.x), y(p.high));
      lower = format("L%.1f %.1f", x(p.x), y(p.low)) + lower;
      line += format("%s%.1f %.1f", line.empty() ? "M" : "L", x(p.x), y(p.y));
      svg += format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"><title>%s, epoch %g: %.5g</title></circle>", x(p.x), y(p.y),
                    colour, name.c_str(), p.x, p.y);
    }
    if (std::any_of(curves[i].points.begin(), curves[i].points.end(), [](const Point& p) { return p.low < p.high; }))
      svg += format("<path d=\"%s%sZ\" fill=\"%s\" fill-opacity=\".15\"/>", upper.c_str(), lower.c_str(), colour);
    svg += format("<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\"/>", line.c_str(), colour);
    legend += format("<span style=\"color:%s\">&#9632; %s</span> ", colour, name.c_str());
  }
  return svg + "</svg><figcaption>" + legend + "</figcaption></figure>\n";
}

std::string page(const std::string& title, const std::string& body, const std::string& configuration) {
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + escaped(title) +
         "</title>\n<style>body{font:15px/1.5 sans-serif;color:#222;background:#fff;max-width:980px;margin:2em auto;padding:0 1em}"
         "figure{display:inline-block;width:470px;max-width:100%;margin:0 0 1em}svg{width:100%;font:11px sans-serif;fill:#333}"
         ".title{font-size:14px;font-weight:bold}.grid{stroke:#ddd}figcaption{font-size:13px;padding-left:58px}"
         "pre{background:#f4f4f4;padding:1em;overflow:auto}"
         "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ddd;padding:.2em "
         ".6em;text-align:left}</style></head>\n<body><h1>" +
         escaped(title) + "</h1>\n" + body + "<h2>Configuration</h2>\n<pre>" + escaped(configuration) + "</pre></body></html>\n";
}

std::string report_html(const std::string& title, const std::string& configuration, const std::vector<Json>& metrics,
                        const std::string& more) {
  std::vector<Json> epochs, steps;
  std::string summary;
  for (const Json& line : metrics) {
    if (line["event"] == "epoch") epochs.push_back(line);
    if (line["event"] == "step") steps.push_back(line);
    if (line["event"] == "done")
      summary = format("Test accuracy %.2f %%, test loss %.4f. Weights sha256 %s.", 100 * line["test_accuracy"].get<double>(),
                       line["test_loss"].get<double>(), line["weights_digest"].get<std::string>().c_str());
  }
  return page(title,
              "<p>" + escaped(summary) + "</p>\n" +
                  chart("Loss", {curve("train", epochs, "train_loss"), curve("test", epochs, "test_loss")}) +
                  chart("Accuracy, %", {curve("train", epochs, "train_accuracy", 100), curve("test", epochs, "test_accuracy", 100),
                                        curve("test, among the top 5", epochs, "test_top5_accuracy", 100)}) +
                  chart("Learning rate", {curve("learning rate", epochs, "learning_rate")}) +
                  chart("Norm of the gradient", {thinned(curve("norm", steps, "gradient_norm"))}) +
                  chart("Training images per second", {curve("images per second", epochs, "images_per_second")}) +
                  chart("Busy, % of the time", stage_curves(epochs, "busy", 100)) +
                  chart("Prediction error (1: as far off as no prediction)", stage_curves(epochs, "prediction_error", 1)) + more,
              configuration);
}

}  // namespace pipecast
