// Runs a target without libFuzzer: over the files of a corpus and over random changes of them, the same ones every time.
// Usage: TARGET CORPUS [rounds]
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <vector>

#include "engine/files/durable_file.h"
#include "engine/random.h"
#include "tests/fuzz/target.h"

using namespace pipecast;

namespace {

using Bytes = std::vector<uint8_t>;

// One to four changes: a bit turned, a byte set to an extreme, bytes taken out, doubled, or taken from another file, the end cut off.
void change(Bytes& bytes, const Bytes& other, const Random& random) {
  uint64_t element = 0;
  auto below = [&](size_t limit) { return size_t(random.below(element++, uint32_t(std::max<size_t>(limit, 1)))); };
  for (size_t left = 1 + below(4); left > 0; --left) {
    if (bytes.empty()) bytes.push_back(0);
    const size_t at = below(bytes.size()), count = std::min(1 + below(16), bytes.size() - at);
    const auto place = bytes.begin() + ptrdiff_t(at);
    switch (below(6)) {
      case 0: bytes[at] ^= uint8_t(1 << below(8)); break;
      case 1: bytes[at] = "\x00\xff\x7f\x80\"9-,"[below(8)]; break;
      case 2: bytes.erase(place, place + ptrdiff_t(count)); break;
      case 3: {
        const Bytes piece(place, place + ptrdiff_t(count));
        bytes.insert(place, piece.begin(), piece.end());
        break;
      }
      case 4: {
        const size_t from = below(other.size());
        bytes.insert(place, other.begin() + ptrdiff_t(from), other.begin() + ptrdiff_t(std::min(from + count, other.size())));
        break;
      }
      default: bytes.resize(at);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::cerr << "usage: " << arguments[0] << " CORPUS [rounds]\n";
    return 2;
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(arguments[1])) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    corpus.push_back(read_file(path.string()));
    LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
  }
  if (corpus.empty()) {
    std::cerr << "the corpus '" << arguments[1] << "' is empty\n";
    return 1;
  }
  const int rounds = count > 2 ? std::atoi(arguments[2]) : 2000;
  for (int round = 0; round < rounds; ++round) {
    const Random random{1, purpose("fuzz"), uint64_t(round)};
    Bytes bytes = corpus[size_t(round) % corpus.size()];
    change(bytes, corpus[size_t(round / 2) % corpus.size()], random);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::cout << corpus.size() << " files and " << rounds << " changes of them\n";
}
