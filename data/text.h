#pragma once
// Data sets of labelled texts in memory. Columns: tokens (int32, a sequence), length and label (int32).
#include <functional>
#include <string_view>

#include "data/dataset.h"

namespace pipecast {

// Tokens of each text, one text after another. 0 is padding, 1 a word that the vocabulary does not have.
struct Texts {
  std::vector<int32_t> tokens;
  std::vector<int64_t> ends;    // in `tokens`, of each text
  std::vector<int32_t> labels;
  int64_t size() const { return int64_t(labels.size()); }
};
constexpr int32_t padding_token = 0, unknown_token = 1;

// lengths: see Samples::lengths(). Texts are at most as long as the last of them.
std::shared_ptr<const Samples> text_samples(Texts, std::vector<int64_t> lengths);

// Calls visit(word) for each word: letters, digits and apostrophes within it. Bytes above 127 count as letters, but for Unicode's blanks
// and a byte order mark, A to Z become a to z, and a word is cut at most_word_bytes.
void each_word(std::string_view text, const std::function<void(const std::string&)>& visit);
constexpr size_t most_word_bytes = 64;

// DIR/train/CLASS/*.txt and DIR/test/CLASS/*.txt, as aclImdb has them.
Dataset load_text(const std::string& directory, const DataOptions&);

}  // namespace pipecast
