// Texts in folders: DIR/train/CLASS/*.txt and DIR/test/CLASS/*.txt, or deeper, as the IMDB reviews (Maas et al. 2011) are unpacked. The
// classes are the folders that both have, in the order of their names. The vocabulary is that of the training texts: the most frequent
// words, those that are equally frequent in the order of their bytes.
#include <algorithm>
#include <iterator>
#include <set>
#include <unordered_map>

#include "data/class_folders.h"
#include "data/columns.h"
#include "data/text.h"
#include "engine/error.h"
#include "engine/files/durable_file.h"
#include "engine/utf8.h"

namespace pipecast {
namespace {

namespace fs = std::filesystem;

constexpr int64_t vocabulary_size = 10000;  // tokens, padding and the unknown word among them
constexpr int64_t most_tokens = 256;        // of a text: what follows is left out
constexpr size_t most_bytes = 1 << 24;      // of a file
const std::string layout = "; the layout is DIR/train/CLASS/*.txt and DIR/test/CLASS/*.txt";

std::set<std::string> names_of(const std::vector<fs::path>& paths) {
  std::set<std::string> names;
  for (const fs::path& path : paths) names.insert(path.filename().string());
  return names;
}

std::vector<ClassFile> files_of(const fs::path& part, const std::vector<std::string>& classes, ClassFolders& reader) {
  std::vector<ClassFile> files;
  for (size_t label = 0; label < classes.size(); ++label)
    for (const fs::path& path : reader.files(part / classes[label])) files.push_back({path.string(), int32_t(label)});
  if (files.empty()) throw UsageError("folder '" + part.string() + "' has no texts" + layout);
  return files;
}

// Calls visit(word) for each word of a file.
void each_word_of(const ClassFile& file, const std::function<void(const std::string&)>& visit) {
  const std::vector<uint8_t> bytes = read_file(file.path, most_bytes);
  const std::string_view text = text_of(bytes);
  // Read as bytes, each of its letters would be a word.
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    throw UsageError("text '" + file.path + "' is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)");
  each_word(text, visit);
}

// The bytes of the blank beyond ASCII that a text begins with; 0 for none. These are Unicode's: next line, no-break space, en space ...
size_t wide_blank(std::string_view text) {
  constexpr std::string_view blanks[] = {"\u0085", "\u00A0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
                                         "\u2007", "\u2008", "\u2009", "\u200A", "\u2028", "\u2029", "\u202F", "\u205F", "\u3000"};
  for (const std::string_view blank : blanks)
    if (text.starts_with(blank)) return blank.size();
  return 0;
}

using Vocabulary = std::unordered_map<std::string, int32_t>;

Vocabulary vocabulary_of(const std::vector<ClassFile>& files) {
  std::unordered_map<std::string, int64_t> counts;
  for (const ClassFile& file : files) each_word_of(file, [&](const std::string& word) { ++counts[word]; });
  std::vector<std::pair<std::string, int64_t>> words(counts.begin(), counts.end());
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) { return a.second != b.second ? a.second > b.second : a.first < b.first; });
  Vocabulary vocabulary;
  for (size_t k = 0; k < words.size() && int64_t(k) + 2 < vocabulary_size; ++k) vocabulary[words[k].first] = int32_t(k) + 2;
  return vocabulary;
}

Texts texts_of(const std::vector<ClassFile>& files, const Vocabulary& vocabulary) {
  Texts texts;
  for (const ClassFile& file : files) {
    const size_t begin = texts.tokens.size();
    each_word_of(file, [&](const std::string& word) {
      if (int64_t(texts.tokens.size() - begin) == most_tokens) return;
      const auto found = vocabulary.find(word);
      texts.tokens.push_back(found == vocabulary.end() ? unknown_token : found->second);
    });
    if (texts.tokens.size() == begin) texts.tokens.push_back(unknown_token);  // a text without words
    texts.ends.push_back(int64_t(texts.tokens.size()));
    texts.labels.push_back(file.label);
  }
  return texts;
}

}  // namespace

std::shared_ptr<const Samples> text_samples(Texts texts, std::vector<int64_t> lengths) {
  struct Memory {
    Texts texts;
    std::vector<int32_t> lengths;
  };
  auto memory = std::make_shared<Memory>(std::move(texts));
  int64_t begin = 0;
  for (const int64_t end : memory->texts.ends) memory->lengths.push_back(int32_t(end - begin)), begin = end;
  std::vector<Column> columns = {{"tokens", WholeNumbers(memory->texts.tokens), "length", padding_token},
                                 {"length", WholeNumbers(memory->lengths)},
                                 {"label", WholeNumbers(memory->texts.labels)}};
  return column_samples(std::move(columns), std::move(lengths), memory, "a data set of texts");
}

void each_word(std::string_view text, const std::function<void(const std::string&)>& visit) {
  std::string word;
  const auto end_word = [&] {
    while (!word.empty() && word.back() == '\'') word.pop_back();
    if (!word.empty()) visit(word);
    word.clear();
  };
  text = without_byte_order_mark(text);
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const auto byte = static_cast<unsigned char>(c);
    if (const size_t blank = byte > 127 ? wide_blank(text.substr(at)) : 0; blank > 0) {
      end_word();
      at += blank - 1;
      continue;
    }
    const bool capital = c >= 'A' && c <= 'Z';
    const bool letter = capital || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || byte > 127 || (c == '\'' && !word.empty());
    if (!letter) end_word();
    else if (word.size() < most_word_bytes) word += capital ? char(c - 'A' + 'a') : c;
  }
  end_word();
}

Dataset load_text(const std::string& directory, const DataOptions&) {
  if (directory.empty()) throw UsageError("data set text: the folder is missing; write text:DIR" + layout);
  const fs::path train = fs::path(directory) / "train", test = fs::path(directory) / "test";
  ClassFolders reader({".txt"}, layout);
  const std::set<std::string> of_train = names_of(reader.folders(train)), of_test = names_of(reader.folders(test));
  std::vector<std::string> classes, others;
  std::set_intersection(of_train.begin(), of_train.end(), of_test.begin(), of_test.end(), std::back_inserter(classes));
  std::set_symmetric_difference(of_train.begin(), of_train.end(), of_test.begin(), of_test.end(), std::back_inserter(others));
  if (classes.size() < 2)
    throw UsageError("'" + directory + "' has " + std::to_string(classes.size()) + " classes of text in both parts; give at least two" + layout);
  const std::vector<ClassFile> training = files_of(train, classes, reader), testing = files_of(test, classes, reader);
  if (const auto empty = empty_classes(training, classes); !empty.empty())
    throw UsageError("class folder '" + (train / empty.front()).string() + "' holds no texts (*.txt); fill it or remove it");
  const Vocabulary vocabulary = vocabulary_of(training);
  const std::vector<int64_t> lengths = {64, 128, most_tokens};
  Dataset dataset{.name = "text",
                  .image = {1, 1, 1, 1},
                  .classes = int64_t(classes.size()),
                  .vocabulary = vocabulary_size,
                  .class_names = classes,
                  .train = {},
                  .test = {}};
  dataset.train = text_samples(texts_of(training, vocabulary), lengths);
  dataset.test = text_samples(texts_of(testing, vocabulary), lengths);
  dataset.notes = reader.left_out();
  if (!others.empty()) dataset.notes.push_back("folders that only one of train and test has, left out: " + counted(others));
  if (const auto empty = empty_classes(testing, classes); !empty.empty())
    dataset.notes.push_back("classes without texts in '" + test.string() + "': " + counted(empty));
  return dataset;
}

}  // namespace pipecast
