// Files of columns, generated sequences, and mini-batches by tokens.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "data/batches.h"
#include "data/columns.h"
#include "engine/files/safetensors.h"
#include "message_of.h"

using namespace pipecast;

namespace {

FileTensor i32(const std::vector<int32_t>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {"I32", {int64_t(values.size())}, {bytes, bytes + 4 * values.size()}};
}
FileTensor u16(const std::vector<uint16_t>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {"U16", {int64_t(values.size())}, {bytes, bytes + 2 * values.size()}};
}

// Three samples: [5, 6, 7] of class 1, [] of class 0, [8] of class 1.
SafeTensors three_texts() {
  SafeTensors file;
  file.tensors = {{"tokens", u16({5, 6, 7, 8})}, {"length", i32({3, 0, 1})}, {"label", i32({1, 0, 1})}};
  file.metadata = {{"sequences", R"({"tokens": "length"})"}, {"vocabulary", "9"}, {"class_names", R"(["no", "yes"])"}};
  return file;
}

template <class F>
std::string defect_of(F f) {
  return testing::message_of<UsageError>(f).c_str();
}

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("pipecast_columns_" + std::to_string(getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  Dataset load(const SafeTensors& train, const SafeTensors& test) const {
    write_safetensors((path / "train.safetensors").string(), train), write_safetensors((path / "test.safetensors").string(), test);
    return load_dataset("columns:" + path.string());
  }
};

std::vector<int32_t> values(const Samples& samples, const std::string& name, int32_t sample, int64_t length = 1) {
  const auto& columns = samples.columns();
  const auto found = std::find_if(columns.begin(), columns.end(), [&](const InputSpec& column) { return column.name == name; });
  REQUIRE(found != columns.end());
  std::vector<int32_t> row(size_t(found->sequence ? length : 1), -7);
  samples.read(size_t(found - columns.begin()), &sample, 1, {.length = length, .augmentation = {}}, row.data());
  return row;
}

using Row = std::vector<int32_t>;

}  // namespace

TEST_CASE("a file of columns: sequences with their padding, numbers, names") {
  const Folder folder;
  SafeTensors test = three_texts();
  test.metadata["padding"] = R"({"tokens": -100})";
  const Dataset data = folder.load(three_texts(), test);
  CHECK((data.classes == 2 && data.vocabulary == 9 && data.class_names == std::vector<std::string>{"no", "yes"}));
  CHECK((data.train->size() == 3 && data.train->lengths() == std::vector<int64_t>{3} && data.train->length(1) == 0));
  CHECK(values(*data.train, "tokens", 0, 4) == Row{5, 6, 7, 0});
  CHECK(values(*data.test, "tokens", 1, 2) == Row{-100, -100});
  CHECK(values(*data.test, "tokens", 2, 2) == Row{8, -100});
  CHECK((values(*data.train, "length", 0) == Row{3} && values(*data.train, "label", 1) == Row{0}));
  SafeTensors wide = three_texts();
  wide.tensors["tokens"] = i32({5, 6, 7, 8});
  CHECK(digest(folder.load(wide, wide)) == digest(folder.load(three_texts(), three_texts())));
  wide.tensors["length"] = i32({2, 1, 1});
  CHECK(digest(folder.load(wide, wide)) != digest(folder.load(three_texts(), three_texts())));
}

TEST_CASE("a damaged file of columns has its sentence") {
  const auto defect = [](const std::function<void(SafeTensors&)>& damage) {
    SafeTensors file = three_texts();
    damage(file);
    const SerializedTensors written = serialize_safetensors(file, "FILE");
    std::string bytes;
    for (const auto& piece : written.pieces()) bytes.append(text_of(piece));
    return defect_of([&] { column_file({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, nullptr, "FILE"); });
  };
  const std::string begin = "'FILE' is no usable file of columns: ";
  CHECK(defect([](SafeTensors& f) { f.tensors["tokens"] = u16({5, 6, 9, 8}); }) == begin + "value 2 of 'tokens' is 9; tokens are 0 to 8");
  CHECK(defect([](SafeTensors& f) { f.tensors["label"] = i32({1, 2, 0}); }) == begin + "sample 1 has the label 2; labels are 0 to 1");
  CHECK(defect([](SafeTensors& f) { f.metadata.erase("vocabulary"); }) ==
        begin + "it has the sequence 'tokens' and no metadata 'vocabulary', the number of tokens there are");
  CHECK(defect([](SafeTensors& f) { f.metadata["lengths"] = "[4, 2]"; }) == begin + "'lengths' must ascend, from 1 to 1048576");
  CHECK(defect([](SafeTensors& f) { f.metadata["sequences"] = "[]"; }) == begin + "the metadata 'sequences' is no object");
  CHECK(defect([](SafeTensors& f) { f.metadata["sequences"] = R"({"words": "length"})"; }) ==
        begin + "the metadata 'sequences' names a column 'words' that the file does not have");
  CHECK(defect([](SafeTensors& f) { f.tensors["label"].type = "F32"; }) == begin + "tensor 'label' is F32; columns are I32 or U16");
  CHECK(defect([](SafeTensors& f) { f.tensors["label"].shape = {3, 1}; }) == begin + "tensor 'label' has 2 dimensions; a column has one");
  CHECK(defect([](SafeTensors& f) {
          f.tensors["length"] = i32({3, -1, 2});
        }) == "'FILE': sample 1 has the length -1 in column 'length'; it must be 0 to 1048576");
  CHECK(defect([](SafeTensors& f) {
          f.tensors["length"] = i32({3, 0, 2});
        }) == "'FILE': column 'tokens' has 4 values and its lengths, column 'length', add up to 5; they must agree");
  CHECK(defect([](SafeTensors& f) {
          f.tensors["label"] = i32({1, 0});
        }) == "'FILE': column 'label' has 2 samples and column 'length' has 3; they must agree");
  CHECK(defect([](SafeTensors& f) { f.tensors.erase("length"); }) ==
        "'FILE': the sequence 'tokens' needs the column 'length', a length for each sample");
}

TEST_CASE("columns: train and test must fit together, and both must be there") {
  const Folder folder;
  const std::string at = folder.path.string();
  SafeTensors other = three_texts();
  other.metadata["vocabulary"] = "10";
  CHECK(defect_of([&] { folder.load(three_texts(), other); }) ==
        "'" + at + "': the vocabulary of train.safetensors has 9 tokens and that of test.safetensors 10; prepare both with one");
  std::filesystem::remove(folder.path / "test.safetensors");
  CHECK(defect_of([&] { load_dataset("columns:" + at); }) == "cannot read '" + at + "/test.safetensors': No such file or directory");
  std::filesystem::create_directory(folder.path / "test.safetensors");
  CHECK(defect_of([&] { load_dataset("columns:" + at); }) == "cannot read '" + at + "/test.safetensors': it is no regular file");
}

TEST_CASE("generated sequences: what follows the marker, reversed, sorted, added") {
  constexpr int32_t begin = 1, end = 2, marker = 3, plus = 4, zero = 5;
  const auto recall = load_dataset("generated-recall:40");
  for (int32_t i = 0; i < 40; ++i) {
    const Row tokens = values(*recall.train, "tokens", i, values(*recall.train, "length", i)[0]);
    const auto at = std::find(tokens.begin(), tokens.end(), marker);
    REQUIRE(at + 1 < tokens.end());
    CHECK(values(*recall.train, "label", i)[0] == at[1] - zero);
  }
  for (const std::string task : {"reverse", "sort", "add"}) {
    const auto translation = load_dataset("generated-translation:" + task + ":40"),
               language = load_dataset("generated-language:" + task + ":40");
    for (int32_t i = 0; i < 40; ++i) {
      const int64_t length = values(*translation.train, "length", i)[0], target_length = values(*translation.train, "target_length", i)[0];
      Row source = values(*translation.train, "tokens", i, length), expected = source;
      if (task == "reverse") std::reverse(expected.begin(), expected.end());
      if (task == "sort") std::sort(expected.begin(), expected.end());
      if (task == "add") {
        int64_t numbers[2] = {0, 0}, which = 0;
        for (const int32_t token : source) token == plus ? ++which : numbers[which] = 10 * numbers[which] + token - zero;
        expected.clear();
        for (const char c : std::to_string(numbers[0] + numbers[1])) expected.push_back(zero + c - '0');
      }
      Row read = expected, said = expected;
      read.insert(read.begin(), begin), said.push_back(end);
      CHECK(values(*translation.train, "target_in", i, target_length) == read);
      CHECK(values(*translation.train, "target", i, target_length) == said);
      CHECK(values(*translation.train, "target", i, target_length + 1).back() == -100);
      Row tokens = source, target(source.size(), -100);
      tokens.insert(tokens.end(), read.begin(), read.end()), target.insert(target.end(), said.begin(), said.end());
      const int64_t both = values(*language.train, "length", i)[0];
      CHECK(values(*language.train, "tokens", i, both) == tokens);
      CHECK(values(*language.train, "target", i, both) == target);
    }
  }
  CHECK(defect_of([] { load_dataset("generated-language:sorted"); }) ==
        "unknown task of generated-language 'sorted'; did you mean 'sort'? Known: copy, reverse, sort, add");
}

TEST_CASE("mini-batches by tokens: many short samples, few long ones") {
  std::vector<int32_t> lengths, tokens;
  for (int i = 0; i < 20; ++i) lengths.push_back(i < 12 ? 4 : 30), tokens.insert(tokens.end(), size_t(lengths.back()), 1);
  const auto samples =
      column_samples({{"tokens", WholeNumbers(tokens), "length"}, {"length", WholeNumbers(lengths)}}, {4, 32}, nullptr, "x");
  const Batches batches(samples, {.batch = 10, .tokens = 64});
  std::vector<PassShape> shapes;
  for (int64_t k = 0; k < batches.per_epoch(); ++k) shapes.push_back(batches.shape(k));
  CHECK(shapes == std::vector<PassShape>{{10, 4}, {2, 4}, {2, 32}, {2, 32}, {2, 32}, {2, 32}});
  CHECK(Batches(samples, {.batch = 10, .tokens = 8}).shape(6) == PassShape{1, 32});  // one sample is the least
}
