// A data set of columns: DIR/train.safetensors and DIR/test.safetensors, as data/prepare_text writes them (docs/data.md). Each tensor is a
// column of one dimension, I32 or U16. The files are mapped, not read: their size is no matter of memory.
//
// Metadata, as JSON: "sequences", which columns are sequences and where their lengths are, as in {"tokens": "length"}; "padding", what
// follows a sequence's values where it is not 0, as in {"target": -100}; "vocabulary", how many tokens there are; "class_names"; "lengths",
// to which samples are padded.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/columns.h"
#include "engine/error.h"
#include "engine/files/json_reader.h"
#include "engine/files/mapped_file.h"
#include "engine/files/safetensors.h"

namespace pipecast {
namespace {

using nlohmann::json;
constexpr int64_t most_vocabulary = 1 << 30, most_classes = 100000;

class Reader {
 public:
  Reader(SafeTensorsView file, const std::string& origin) : file_(std::move(file)), origin_(origin) {
    const json sequences = metadata("sequences", json::object()), padding = metadata("padding", json::object());
    for (const auto& [name, tensor] : file_.tensors) columns_.push_back(column(name, tensor));
    for (const auto& [name, length] : sequences.items()) {
      if (!length.is_string()) refuse("the length of sequence '" + shown(name) + "' is not the name of a column");
      find(name, "sequences").length = length;
    }
    for (const auto& [name, value] : padding.items()) {
      if (!value.is_number_integer() || value < -1000000 || value > most_vocabulary)
        refuse("the padding of '" + shown(name) + "' is no number of a token");
      find(name, "padding").padding = value;
    }
  }

  std::vector<Column> columns() const { return columns_; }

  // Tokens are below the vocabulary, or they are the sequence's padding.
  int64_t vocabulary() const {
    const int64_t vocabulary = number("vocabulary", most_vocabulary);
    for (const Column& column : columns_) {
      if (column.length.empty()) continue;
      if (vocabulary == 0)
        refuse("it has the sequence '" + shown(column.name) + "' and no metadata 'vocabulary', the number of tokens there are");
      each(column, [&](int64_t at, int32_t token) {
        if ((token < 0 || token >= vocabulary) && token != column.padding)
          refuse("value " + std::to_string(at) + " of '" + shown(column.name) + "' is " + std::to_string(token) + "; tokens are 0 to " +
                 std::to_string(vocabulary - 1));
      });
    }
    return vocabulary;
  }

  std::vector<std::string> class_names() const {
    std::vector<std::string> names;
    for (const json& name : metadata("class_names", json::array())) {
      if (!name.is_string()) refuse("a name in 'class_names' is no text");
      names.push_back(name);
    }
    return names;
  }

  // As many as there are names, else as the largest label says.
  int64_t classes() const {
    const int64_t names = int64_t(class_names().size()), most = names > 0 ? names : most_classes;
    int64_t classes = names;
    for (const Column& column : columns_) {
      if (column.name != "label") continue;
      each(column, [&](int64_t at, int32_t label) {
        if (label < 0 || label >= most)
          refuse("sample " + std::to_string(at) + " has the label " + std::to_string(label) + "; labels are 0 to " +
                 std::to_string(most - 1));
        classes = std::max<int64_t>(classes, label + 1);
      });
    }
    return classes;
  }

  std::vector<int64_t> lengths() const {
    std::vector<int64_t> lengths;
    for (const json& length : metadata("lengths", json::array())) {
      lengths.push_back(size_of_json(length, sentence("a number in 'lengths'")));
      const bool ascends = lengths.size() < 2 || lengths[lengths.size() - 2] < lengths.back();
      if (lengths.back() < 1 || lengths.back() > most_positions || !ascends)
        refuse("'lengths' must ascend, from 1 to " + std::to_string(most_positions));
    }
    return lengths;
  }

 private:
  std::string sentence(const std::string& defect) const { return "'" + origin_ + "' is no usable file of columns: " + defect; }
  [[noreturn]] void refuse(const std::string& defect) const { throw UsageError(sentence(defect)); }

  // The metadata of this name, as JSON of the kind that `otherwise` is.
  json metadata(const char* name, json otherwise) const {
    const auto found = file_.metadata.find(name);
    if (found == file_.metadata.end()) return otherwise;
    json value = parse_json(found->second.data(), found->second.size(), sentence("the metadata '" + std::string(name) + "'"));
    if (value.type() != otherwise.type()) refuse("the metadata '" + std::string(name) + "' is no " + otherwise.type_name());
    return value;
  }

  int64_t number(const char* name, int64_t most) const {
    const auto found = file_.metadata.find(name);
    if (found == file_.metadata.end()) return 0;
    const std::string what = sentence("the metadata '" + std::string(name) + "'");
    const int64_t value = size_of_json(parse_json(found->second.data(), found->second.size(), what), what);
    if (value < 1 || value > most) refuse("the metadata '" + std::string(name) + "' must be 1 to " + std::to_string(most));
    return value;
  }

  Column column(const std::string& name, const TensorView& tensor) const {
    if (tensor.shape.size() != 1)
      refuse("tensor '" + shown(name) + "' has " + std::to_string(tensor.shape.size()) + " dimensions; a column has one");
    if (tensor.type != "I32" && tensor.type != "U16") refuse("tensor '" + shown(name) + "' is " + tensor.type + "; columns are I32 or U16");
    return {name, WholeNumbers(tensor.bytes.data(), tensor.shape[0], tensor.type == "I32" ? 4 : 2)};
  }

  Column& find(const std::string& name, const char* where) {
    for (Column& column : columns_)
      if (column.name == name) return column;
    refuse("the metadata '" + std::string(where) + "' names a column '" + shown(name) + "' that the file does not have");
  }

  template <class F>
  static void each(const Column& column, F visit) {
    int32_t some[4096];
    for (int64_t begin = 0; begin < column.values.size(); begin += 4096) {
      const int64_t count = std::min<int64_t>(4096, column.values.size() - begin);
      column.values.copy(begin, count, some);
      for (int64_t i = 0; i < count; ++i) visit(begin + i, some[i]);
    }
  }

  SafeTensorsView file_;
  const std::string origin_;
  std::vector<Column> columns_;
};

ColumnFile read_part(const std::filesystem::path& path) {
  const auto file = std::make_shared<MappedFile>(path.string());
  return column_file(file->bytes(), file, path.string());
}

}  // namespace

ColumnFile column_file(std::span<const uint8_t> bytes, std::shared_ptr<const void> owner, const std::string& origin) {
  const Reader reader(view_safetensors(bytes.data(), bytes.size(), origin), origin);
  ColumnFile file{nullptr, reader.vocabulary(), reader.classes(), reader.class_names()};
  file.samples = column_samples(reader.columns(), reader.lengths(), std::move(owner), "'" + origin + "'");
  return file;
}

Dataset load_columns(const std::string& directory, const DataOptions&) {
  std::error_code ignored;
  if (directory.empty())
    throw UsageError("data set columns: the folder is missing; write columns:DIR, with DIR/train.safetensors and DIR/test.safetensors");
  if (!std::filesystem::is_directory(directory, ignored))
    throw UsageError("'" + directory +
                     "' is no folder; columns:DIR needs one with train.safetensors and test.safetensors (data/prepare_text writes them)");
  const ColumnFile train = read_part(std::filesystem::path(directory) / "train.safetensors");
  const ColumnFile test = read_part(std::filesystem::path(directory) / "test.safetensors");
  if (train.vocabulary != test.vocabulary)
    throw UsageError("'" + directory + "': the vocabulary of train.safetensors has " + std::to_string(train.vocabulary) +
                     " tokens and that of test.safetensors " + std::to_string(test.vocabulary) + "; prepare both with one");
  if (test.classes > train.classes)
    throw UsageError("'" + directory + "': test.safetensors has a label " + std::to_string(test.classes - 1) +
                     " and train.safetensors has labels 0 to " + std::to_string(train.classes - 1) + " only");
  return {.name = "columns",
          .image = {1, 1, 1, 1},
          .classes = train.classes,
          .vocabulary = train.vocabulary,
          .class_names = train.class_names,
          .train = train.samples,
          .test = test.samples};
}

}  // namespace pipecast
