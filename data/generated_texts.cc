// Small tasks on sequences of digits, for trying models of text without any file.
//
// recall, to classify: which digit follows the marker. The others map a sequence to a sequence: copy, reverse, sort; add: "12+9" to "21".
// A translation has the source in `tokens`; the decoder reads begin and the result in `target_in` and says the result and end, `target`.
// A language model reads source, begin, result; it says the result and end; what it says to the source does not count.
#include "data/generated_texts.h"

#include <algorithm>
#include <charconv>

#include "data/columns.h"
#include "engine/error.h"
#include "engine/random.h"

namespace pipecast {
namespace {

// Tokens: 0 is padding, then these, then the ten digits.
constexpr int32_t begin_token = 1, end_token = 2, marker = 3, plus = 4, first_digit = 5, vocabulary = first_digit + 10;
constexpr int32_t not_counted = -100;
constexpr int64_t fewest_digits = 3, most_digits = 12;
constexpr int64_t most_samples = 1000000;

using Sequence = std::vector<int32_t>;

Sequence digits_of(int64_t number) {
  Sequence digits;
  for (const char c : std::to_string(number)) digits.push_back(first_digit + (c - '0'));
  return digits;
}

Sequence random_digits(const Random& random) {
  Sequence digits(size_t(fewest_digits + random.below(0, most_digits - fewest_digits + 1)));
  for (size_t t = 0; t < digits.size(); ++t) digits[t] = first_digit + int32_t(random.below(1 + t, 10));
  return digits;
}

struct Pair {
  Sequence source, result;
};

Pair reverse(const Random& random) {
  const Sequence digits = random_digits(random);
  return {digits, {digits.rbegin(), digits.rend()}};
}
Pair copy(const Random& random) {
  const Sequence digits = random_digits(random);
  return {digits, digits};
}
Pair sort(const Random& random) {
  Sequence digits = random_digits(random), sorted = digits;
  std::sort(sorted.begin(), sorted.end());
  return {digits, sorted};
}
// Two numbers of one to four digits.
Pair add(const Random& random) {
  int64_t numbers[2];
  for (uint64_t k = 0; k < 2; ++k) {
    constexpr uint32_t limits[] = {10, 100, 1000, 10000};
    numbers[k] = random.below(2 * k + 1, limits[random.below(2 * k, 4)]);
  }
  Sequence source = digits_of(numbers[0]);
  source.push_back(plus);
  const Sequence second = digits_of(numbers[1]);
  source.insert(source.end(), second.begin(), second.end());
  return {source, digits_of(numbers[0] + numbers[1])};
}

struct Task {
  const char* name;
  Pair (*make)(const Random&);
};
constexpr Task tasks[] = {{"copy", copy}, {"reverse", reverse}, {"sort", sort}, {"add", add}};

// Columns under construction.
struct Tables {
  struct Table {
    std::string name, length;
    int32_t padding;
    Sequence values;
  };
  std::vector<Table> tables;

  void append(const std::string& name, const std::string& length, int32_t padding, const Sequence& values) {
    auto found = std::find_if(tables.begin(), tables.end(), [&](const Table& table) { return table.name == name; });
    if (found == tables.end()) found = tables.insert(tables.end(), {name, length, padding, {}});
    found->values.insert(found->values.end(), values.begin(), values.end());
  }
};

std::shared_ptr<const Samples> samples_of(Tables made) {
  const auto memory = std::make_shared<const Tables>(std::move(made));
  std::vector<Column> columns;
  for (const Tables::Table& table : memory->tables)
    columns.push_back({table.name, WholeNumbers(table.values), table.length, table.padding});
  return column_samples(std::move(columns), {}, memory, "a generated data set");
}

// The digit behind the marker is the label.
void append_recall(const Random& random, Tables& tables) {
  Sequence digits = random_digits(random);
  const size_t at = random.below(100, uint32_t(digits.size() - 1));
  tables.append("label", "", 0, {digits[at + 1] - first_digit});
  digits[at] = marker;
  tables.append("tokens", "length", 0, digits);
  tables.append("length", "", 0, {int32_t(digits.size())});
}

void append_translation(const Pair& pair, Tables& tables) {
  Sequence target_in = pair.result, target = pair.result;
  target_in.insert(target_in.begin(), begin_token);
  target.push_back(end_token);
  tables.append("tokens", "length", 0, pair.source);
  tables.append("length", "", 0, {int32_t(pair.source.size())});
  tables.append("target_in", "target_length", 0, target_in);
  tables.append("target", "target_length", not_counted, target);
  tables.append("target_length", "", 0, {int32_t(target.size())});
}

void append_language(const Pair& pair, Tables& tables) {
  Sequence tokens = pair.source, target(pair.source.size(), not_counted);
  tokens.push_back(begin_token);
  tokens.insert(tokens.end(), pair.result.begin(), pair.result.end());
  target.insert(target.end(), pair.result.begin(), pair.result.end());
  target.push_back(end_token);
  tables.append("tokens", "length", 0, tokens);
  tables.append("target", "length", not_counted, target);
  tables.append("length", "", 0, {int32_t(tokens.size())});
}

// "" or ":SIZE".
int64_t size_of(const std::string& text, const std::string& argument) {
  if (text.empty()) return 2000;
  int64_t size = 0;
  const auto [end, error] = std::from_chars(text.data() + 1, text.data() + text.size(), size);
  if (text[0] != ':' || error != std::errc() || end != text.data() + text.size() || size < 10 || size > most_samples)
    throw UsageError("generated data '" + argument + "': the number of samples must be 10 to " + std::to_string(most_samples));
  return size;
}

// append(random, tables) adds a sample, whose numbers are its own. A quarter as many samples are for testing.
template <class F>
Dataset dataset_of(const std::string& name, int64_t classes, int64_t size, F append) {
  Dataset dataset{.name = name, .image = {1, 1, 1, 1}, .classes = classes, .vocabulary = vocabulary, .train = {}, .test = {}};
  const auto make = [&](int64_t count, uint32_t purpose) {
    Tables tables;
    for (int64_t i = 0; i < count; ++i) append(Random{0, purpose, uint64_t(i)}, tables);
    return samples_of(std::move(tables));
  };
  dataset.train = make(size, purpose("generated texts, training"));
  dataset.test = make(size / 4, purpose("generated texts, test"));
  return dataset;
}

template <class F>
Dataset task_of(const std::string& name, const std::string& argument, F append) {
  const size_t colon = argument.find(':');
  std::vector<std::string> known;
  for (const Task& task : tasks) {
    known.push_back(task.name);
    if (argument.substr(0, colon) != task.name) continue;
    const int64_t size = size_of(colon == std::string::npos ? "" : argument.substr(colon), argument);
    return dataset_of(name, 0, size, [&](const Random& random, Tables& tables) { append(task.make(random), tables); });
  }
  throw UsageError(unknown_name("task of " + name, argument.substr(0, colon), known));
}

}  // namespace

Dataset generated_recall(const std::string& argument, const DataOptions&) {
  return dataset_of("generated-recall", 10, size_of(argument.empty() ? "" : ":" + argument, argument), append_recall);
}
Dataset generated_translation(const std::string& argument, const DataOptions&) {
  return task_of("generated-translation", argument, append_translation);
}
Dataset generated_language(const std::string& argument, const DataOptions&) {
  return task_of("generated-language", argument, append_language);
}

}  // namespace pipecast
