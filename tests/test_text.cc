// Text from files to a trained model: columns that are sequences, buckets of length, padding that changes no bit.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "data/batches.h"
#include "data/text.h"
#include "engine/random.h"
#include "message_of.h"
#include "models/models.h"
#include "models/weights.h"
#include "pipeline/train/trainer.h"

using namespace pipecast;
using testing::message_of;

namespace {

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("pipecast_text_" + std::to_string(getpid()));
  Folder() { std::filesystem::remove_all(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << text;
  }
  Dataset load() const { return load_dataset("text:" + path.string()); }
};

// Texts of 1 to `most` tokens, of two classes with words of their own.
Texts some_texts(int64_t count, int64_t most, int32_t vocabulary) {
  Texts texts;
  const Random random{4, purpose("texts"), 0};
  uint64_t element = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t label = int32_t(i % 2);
    const int64_t length = 1 + random.below(element++, uint32_t(most));
    for (int64_t t = 0; t < length; ++t) {
      const int32_t half = (vocabulary - 2) / 2, own = random.below(element++, 4) > 0 ? label : 1 - label;
      texts.tokens.push_back(2 + own * half + int32_t(random.below(element++, uint32_t(half))));
    }
    texts.ends.push_back(int64_t(texts.tokens.size()));
    texts.labels.push_back(label);
  }
  return texts;
}

// The same samples with their columns in another order.
class Reordered : public Samples {
 public:
  explicit Reordered(std::shared_ptr<const Samples> samples) : samples_(std::move(samples)) {
    for (size_t c = samples_->columns().size(); c-- > 0;) columns_.push_back(samples_->columns()[c]);
  }
  int64_t size() const override { return samples_->size(); }
  const std::vector<InputSpec>& columns() const override { return columns_; }
  std::vector<int64_t> lengths() const override { return samples_->lengths(); }
  int64_t length(int64_t sample) const override { return samples_->length(sample); }
  void read(size_t column, const int32_t* samples, int64_t count, const Reading& reading, void* to) const override {
    samples_->read(columns_.size() - 1 - column, samples, count, reading, to);
  }
  void add_to(Sha256& digest) const override { samples_->add_to(digest); }

 private:
  std::shared_ptr<const Samples> samples_;
  std::vector<InputSpec> columns_;
};

constexpr int32_t vocabulary = 42;

TrainerOptions options_of(int stages, const std::string& executor = "sequential") {
  TrainerOptions o;
  o.stages = stages, o.batch = 8, o.executor = executor, o.threads = stages;
  o.optimizer = {.name = "adam"};
  o.schedule = {.name = "constant", .rate = 0.01f};
  return o;
}

struct Result {
  std::string digest;
  std::vector<float> logits;
};
// Two epochs on these samples, then what the model says to them.
Result train(std::shared_ptr<const Samples> samples, TrainerOptions o, bool shuffle = true) {
  Batches batches(samples, {.batch = o.batch, .shuffle = shuffle, .seed = 3}), in_order(samples, {.batch = o.batch});
  std::vector<PassShape> shapes = batches.shapes();
  Trainer trainer(make_model("bag-of-embeddings", {.classes = 2, .vocabulary = vocabulary}), o, shapes);
  trainer.train(batches, 0, 2 * batches.per_epoch());
  Result result{weights_digest(trainer.weights()), {}};
  trainer.evaluate(in_order, &result.logits);
  return result;
}

}  // namespace

TEST_CASE("words: letters, digits and inner apostrophes in lower case; anything else divides") {
  std::vector<std::string> words;
  each_word("It's GREAT--a 'film', 7/10.<br />\xc3\x89t\xc3\xa9 dogs' ''" + std::string(100, 'x'), [&](const std::string& w) { words.push_back(w); });
  CHECK(words == std::vector<std::string>{"it's", "great", "a", "film", "7", "10", "br", "\xc3\x89t\xc3\xa9", "dogs", std::string(most_word_bytes, 'x')});
}

TEST_CASE("text folders: classes, vocabulary, lengths, columns") {
  const Folder folder;
  folder.write("train/pos/0_9.txt", "good good good film");
  folder.write("train/neg/0_2.txt", "bad film, bad film");
  folder.write("train/neg/readme.md", "not a text");
  folder.write("train/unsup/0_0.txt", "unsupervised");
  folder.write("test/pos/0_8.txt", "good unseen");
  folder.write("test/neg/0_1.txt", "...");
  folder.write("test/neg/1_1.txt", [] {
    std::string text;
    for (int i = 0; i < 300; ++i) text += "bad ";
    return text;
  }());
  const Dataset data = folder.load();
  CHECK(data.classes == 2);
  CHECK(data.vocabulary == 10000);
  CHECK(data.train->size() == 2);
  CHECK(data.train->lengths() == std::vector<int64_t>{64, 128, 256});
  // By frequency, then bytes: film and good come three times each, bad twice.
  const int32_t film = 2, good = 3, bad = 4;
  auto tokens = [](const Samples& samples, int32_t sample, int64_t length) {
    std::vector<int32_t> row(static_cast<size_t>(length), -7);
    samples.read(0, &sample, 1, {.length = length, .augmentation = {}}, row.data());
    return row;
  };
  CHECK(tokens(*data.train, 0, 6) == std::vector<int32_t>{bad, film, bad, film, 0, 0});
  CHECK(tokens(*data.train, 1, 4) == std::vector<int32_t>{good, good, good, film});
  CHECK(tokens(*data.test, 0, 2) == std::vector<int32_t>{1, 0});  // no words: one that is unknown
  CHECK(data.test->length(1) == 256);
  CHECK(tokens(*data.test, 2, 3) == std::vector<int32_t>{good, 1, 0});
  const int32_t all[] = {0, 1, 2};
  int32_t labels[3], lengths[3];
  data.test->read(1, all, 3, {}, lengths), data.test->read(2, all, 3, {}, labels);
  CHECK(std::vector<int32_t>(lengths, lengths + 3) == std::vector<int32_t>{1, 256, 2});
  CHECK(std::vector<int32_t>(labels, labels + 3) == std::vector<int32_t>{0, 0, 1});
}

TEST_CASE("texts: a byte order mark is no letter, Unicode's blanks end words, UTF-16 is refused") {
  const auto words_of = [](const std::string& text) {
    std::vector<std::string> words;
    each_word(text, [&](const std::string& word) { words.push_back(word); });
    return words;
  };
  CHECK(words_of("\uFEFFa good film") == std::vector<std::string>{"a", "good", "film"});
  CHECK(words_of("a\u00A0good\u2003\u3000film\u0085\u2028") == std::vector<std::string>{"a", "good", "film"});
  CHECK(words_of("a\xA0g \xC2 \u00A1x \u2010x \xE2\x80") == std::vector<std::string>{"a\xA0g", "\xC2", "\u00A1x", "\u2010x", "\xE2\x80"});  // no blanks
  const Folder folder;
  for (const std::string part : {"train", "test"}) folder.write(part + "/pos/a.txt", "good"), folder.write(part + "/neg/a.txt", "bad");
  const std::string before = digest(folder.load()), file = (folder.path / "train/neg/a.txt").string();
  folder.write("train/neg/a.txt", "\uFEFFbad\u00A0");
  CHECK(digest(folder.load()) == before);
  for (const std::string& text : {std::string("\xFF\xFE" "b\0", 4), std::string("\xFE\xFF\0b", 4)}) {
    folder.write("train/neg/a.txt", text);
    CHECK(message_of<UsageError>([&] { folder.load(); }) ==
          ("text '" + file + "' is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)").c_str());
  }
}

TEST_CASE("texts: every token, every end and every label is in the digest") {
  Texts texts = some_texts(9, 6, vocabulary);
  const auto digest_of = [](const Texts& train) {
    Dataset data;
    data.train = text_samples(train, {6}), data.test = text_samples(some_texts(2, 6, vocabulary), {6});
    return digest(data);
  };
  std::set<std::string> digests{digest_of(texts)};
  const auto changed = [&](auto& number) {
    ++number;
    CHECK(digests.insert(digest_of(texts)).second);
    --number;
  };
  for (int32_t& token : texts.tokens) changed(token);
  for (int32_t& label : texts.labels) changed(label);
  for (size_t i = 0; i + 1 < texts.ends.size(); ++i)  // the last one is fixed by the tokens
    if (texts.ends[i] < texts.ends[i + 1]) changed(texts.ends[i]);
}

TEST_CASE("text folders: what is hidden is no data, what lies deeper is taken, what is left out is counted") {
  const Folder folder;
  for (const std::string part : {"train", "test"}) {
    folder.write(part + "/pos/a.txt", "good"), folder.write(part + "/neg/a.TXT", "bad");
    folder.write(part + "/.cache/a.txt", "no"), folder.write(part + "/neg/._a.txt", "no");
  }
  CHECK(folder.load().notes.empty());
  folder.write("train/neg/more/b.txt", "worse");
  folder.write("train/unsup/a.txt", "no"), folder.write("train/urls.txt", "no"), folder.write("test/neg/a.md", "no");
  std::filesystem::remove(folder.path / "test/pos/a.txt");
  const Dataset data = folder.load();
  CHECK(data.classes == 2);
  CHECK(data.train->size() == 3);
  CHECK(data.test->size() == 1);
  CHECK(data.notes == std::vector<std::string>{"files of other types left out: 1 (.md 1)", "files beside the class folders left out: 1",
                                               "folders that only one of train and test has, left out: 1 ('unsup')",
                                               "classes without texts in '" + (folder.path / "test").string() + "': 1 ('pos')"});
}

TEST_CASE("text folders that are none have their sentence") {
  const Folder folder;
  const std::string layout = "; the layout is DIR/train/CLASS/*.txt and DIR/test/CLASS/*.txt", at = folder.path.string();
  CHECK(message_of<UsageError>([&] { folder.load(); }) ==
        ("folder '" + at + "/train' cannot be read: No such file or directory" + layout).c_str());
  CHECK(message_of<UsageError>([] { load_dataset("text"); }) == ("data set text: the folder is missing; write text:DIR" + layout).c_str());
  folder.write("train/pos/a.txt", "x"), folder.write("test/pos/a.txt", "x");
  CHECK(message_of<UsageError>([&] { folder.load(); }) ==
        ("'" + at + "' has 1 classes of text in both parts; give at least two" + layout).c_str());
  folder.write("train/neg/a.md", "x"), folder.write("test/neg/a.md", "x");
  CHECK(message_of<UsageError>([&] { folder.load(); }) ==
        ("class folder '" + at + "/train/neg' holds no texts (*.txt); fill it or remove it").c_str());
  folder.write("train/neg/a.txt", "x");
  std::filesystem::create_symlink("loop", folder.path / "test/neg/loop");
  CHECK(message_of<UsageError>([&] { folder.load(); }) == ("symbolic link '" + at + "/test/neg/loop' leads nowhere: Too many levels of symbolic "
                                                           "links; mend it or take it out of the folder").c_str());
  std::filesystem::remove(folder.path / "test/neg/loop");
  std::filesystem::remove(folder.path / "test/pos/a.txt");
  CHECK(message_of<UsageError>([&] { folder.load(); }) == ("folder '" + at + "/test' has no texts" + layout).c_str());
}

TEST_CASE("more padding, another bucket, another order of columns: the same bits for the same samples") {
  const Texts texts = some_texts(42, 20, vocabulary);  // the last batch is short
  const Result tight = train(text_samples(texts, {20}), options_of(4));
  CHECK(tight.logits.size() == 84);
  for (const int64_t length : {21, 64, 200}) {
    const Result padded = train(text_samples(texts, {length}), options_of(4));
    CHECK(padded.digest == tight.digest);
    CHECK(padded.logits == tight.logits);
  }
  // In another bucket: the one for longer texts stays empty, or the one for shorter ones.
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{20, 64}, std::vector<int64_t>{20, 64, 128}})
    CHECK(train(text_samples(texts, lengths), options_of(4)).digest == tight.digest);
  CHECK(train(std::make_shared<Reordered>(text_samples(texts, {20})), options_of(4)).digest == tight.digest);
}

TEST_CASE("a sample longer than the longest mini-batch is refused") {
  const auto samples = text_samples({{2, 3, 4}, {3}, {0}}, {2});
  CHECK(message_of<UsageError>([&] { Batches(samples, {.batch = 1}); }) ==
        "sample 0 has 3 positions, more than the longest mini-batch: the last of the data set's lengths must hold each of its samples");
}

TEST_CASE("sequences of several lengths cross stages: threads as in sequence, with micro-batches, recomputed, synchronous as on one stage") {
  const auto samples = text_samples(some_texts(90, 60, vocabulary), {8, 32, 60});
  CHECK(Batches(samples, {.batch = 8}).shapes().size() > 3);
  for (const std::string method : {"pipeoptim", "gpipe", "interleaved"}) {
    CAPTURE(method);
    TrainerOptions o = options_of(method == "interleaved" ? 2 : 4);
    o.method = method, o.micro_batches = 4;
    const Result sequential = train(samples, o);
    o.executor = "threads";
    const Result threads = train(samples, o);
    CHECK(threads.digest == sequential.digest);
    CHECK(threads.logits == sequential.logits);
    o.recompute = Recompute::always;
    if (method != "pipeoptim") CHECK(train(samples, o).digest == sequential.digest);
  }
  TrainerOptions one = options_of(1), four = options_of(4);
  one.method = four.method = "1f1b-flush";
  CHECK(train(samples, one).digest == train(samples, four).digest);
}

TEST_CASE("a bag of embeddings learns from the words on four stages") {
  const auto samples = text_samples(some_texts(400, 30, vocabulary), {16, 30});
  for (const std::string math : {"fp32", "bf16"}) {
    TrainerOptions o = options_of(4);
    o.math = math;
    Batches batches(samples, {.batch = 8, .shuffle = true, .seed = 1});
    Trainer trainer(make_model("bag-of-embeddings", {.classes = 2, .vocabulary = vocabulary}), o, batches.shapes());
    trainer.train(batches, 0, 3 * batches.per_epoch());
    CHECK(trainer.evaluate(batches).accuracy > 0.9);
  }
}

TEST_CASE("IMDB on four stages") {
  const char* folder = std::getenv("PIPECAST_IMDB");
  if (!folder) {
    MESSAGE("skipped: set PIPECAST_IMDB to a folder aclImdb with the reviews");
    return;
  }
  const Dataset data = load_dataset(std::string("text:") + folder);
  TrainerOptions o = options_of(4);
  o.batch = 32;
  Batches batches(data.train, {.batch = 32, .shuffle = true, .seed = 1}), test(data.test, {.batch = 32});
  std::vector<PassShape> shapes = batches.shapes();
  for (const PassShape& shape : test.shapes()) shapes.push_back(shape);
  Trainer trainer(make_model("bag-of-embeddings", {.classes = 2, .vocabulary = data.vocabulary}), o, shapes);
  trainer.train(batches, 0, 2 * batches.per_epoch());
  const double accuracy = trainer.evaluate(test).accuracy;
  MESSAGE("test accuracy " << accuracy);
  CHECK(accuracy > 0.7);
}
