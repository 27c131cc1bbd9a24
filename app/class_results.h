#pragma once
// How a classifier did class by class, for a person and for a program.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "pipeline/train/classification.h"

namespace pipecast {

// The class's name as a terminal and JSON can show it; its number where the data set names none.
std::string class_name(const std::vector<std::string>& names, int64_t number);

// HTML: top-5 accuracy, Matthews correlation, a table of the classes, and of up to 20 classes the confusion matrix.
std::string class_tables(const Classification&, const std::vector<std::string>& names);

// {"test_top5_accuracy", "test_matthews_correlation", "classes": [{"name", "samples", "accuracy"}], "confusion": [[...]]}
nlohmann::ordered_json class_results(const Classification&, const std::vector<std::string>& names);

}  // namespace pipecast
