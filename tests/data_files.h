#pragma once
// What tests of data sets share: files in folders of their own, and the sentences that refuse them.
#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/random.h"

namespace pipecast::testing {

namespace fs = std::filesystem;

using Bytes = std::vector<uint8_t>;

// A folder of its own that is gone at the end.
struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "pipecast_data_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

inline void write(const fs::path& path, const Bytes& bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
  REQUIRE(stream.good());
}

inline uint8_t random_byte(uint64_t stream, uint64_t element) { return uint8_t(Random{7, purpose("test bytes"), stream}.bits(element)); }

inline std::string in_quotes(const std::string& text) { return std::string("'").append(text).append("'"); }

template <class F>
std::string usage_error(const F& f) {
  try {
    f();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no UsageError";
}
inline void check_has(const std::string& text, std::initializer_list<std::string> parts) {
  for (const std::string& part : parts) {
    INFO(text);
    CHECK_MESSAGE(text.find(part) != std::string::npos, part);
  }
}

}  // namespace pipecast::testing
