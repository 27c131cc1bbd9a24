#include "app/class_results.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "app/report.h"
#include "engine/error.h"
#include "engine/format.h"

namespace pipecast {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t most_in_matrix = 20;  // classes: a larger matrix cannot be read

std::string cell(const std::string& text, const std::string& attributes = "") { return "<td" + attributes + ">" + text + "</td>"; }
std::string percent(double share) { return std::isnan(share) ? "-" : format("%.1f", 100 * share); }

// Most often, what a class was taken for instead: "cat (12), dog (3)".
std::string mistakes_of(const Classification& c, const std::vector<std::string>& names, int64_t label) {
  std::vector<int64_t> others;
  for (int64_t k = 0; k < c.classes(); ++k)
    if (k != label && c.taken(label, k) > 0) others.push_back(k);
  std::ranges::stable_sort(others, [&](int64_t a, int64_t b) { return c.taken(label, a) > c.taken(label, b); });
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(others.size(), 3); ++i)
    text += (i ? ", " : "") + class_name(names, others[i]) + format(" (%lld)", (long long)(c.taken(label, others[i])));
  return escaped(text);
}

std::string matrix(const Classification& c, const std::vector<std::string>& names) {
  std::string html = "<h2>Confusion matrix</h2>\n<p>A row for each label, a column for each prediction: samples.</p>\n<table><tr><th></th>";
  for (int64_t k = 0; k < c.classes(); ++k) html += "<th>" + escaped(class_name(names, k)) + "</th>";
  for (int64_t label = 0; label < c.classes(); ++label) {
    html += "</tr>\n<tr><th>" + escaped(class_name(names, label)) + "</th>";
    for (int64_t k = 0; k < c.classes(); ++k) {
      const double share = double(c.taken(label, k)) / double(std::max<int64_t>(c.samples_of(label), 1));
      html += cell(std::to_string(c.taken(label, k)),
                   format(" style=\"background:rgba(%s,%.2f)\"", k == label ? "42,138,74" : "200,80,30", .7 * share));
    }
  }
  return html + "</tr></table>\n";
}

}  // namespace

std::string class_name(const std::vector<std::string>& names, int64_t number) {
  return size_t(number) < names.size() ? shown(names[size_t(number)]) : std::to_string(number);
}

std::string class_tables(const Classification& c, const std::vector<std::string>& names) {
  std::string html = "<h2>Classes</h2>\n";
  if (c.classes() > 5) html += format("<p>Top-5 accuracy %.2f %%.</p>\n", 100 * c.top5());
  html += format("<p>Matthews correlation %.4f.</p>\n", c.matthews_correlation());
  html += "<table><tr><th>class</th><th>samples</th><th>accuracy, %</th><th>most often taken for</th></tr>\n";
  std::vector<int64_t> order(static_cast<size_t>(c.classes()));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return c.accuracy_of(a) < c.accuracy_of(b); });  // the worst come first
  for (int64_t label : order)
    html += "<tr>" + cell(escaped(class_name(names, label))) + cell(std::to_string(c.samples_of(label))) +
            cell(percent(c.accuracy_of(label))) + cell(mistakes_of(c, names, label)) + "</tr>\n";
  return html + "</table>\n" + (c.classes() <= most_in_matrix ? matrix(c, names) : "");
}

Json class_results(const Classification& c, const std::vector<std::string>& names) {
  Json classes = Json::array(), confusion = Json::array();
  for (int64_t label = 0; label < c.classes(); ++label) {
    const double accuracy = c.accuracy_of(label);
    classes.push_back({{"name", class_name(names, label)},
                       {"samples", c.samples_of(label)},
                       {"accuracy", std::isnan(accuracy) ? Json() : Json(accuracy)}});
    Json row = Json::array();
    for (int64_t k = 0; k < c.classes(); ++k) row.push_back(c.taken(label, k));
    confusion.push_back(std::move(row));
  }
  return {{"test_top5_accuracy", c.classes() > 5 ? Json(c.top5()) : Json()},
          {"test_matthews_correlation", c.matthews_correlation()},
          {"classes", classes},
          {"confusion", confusion}};
}

}  // namespace pipecast
