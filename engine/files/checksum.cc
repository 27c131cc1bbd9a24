#include "engine/files/checksum.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace pipecast {
namespace {

uint64_t word(const uint8_t* from, size_t bytes = 8) {
  uint64_t word = 0;
  std::memcpy(&word, from, bytes);
  return word;
}

// tables[k][b]: what byte b does to the sum when k more bytes follow it.
constexpr auto tables = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t sum = byte;
    for (int bit = 0; bit < 8; ++bit) sum = (sum & 1) != 0 ? 0xedb88320 ^ sum >> 1 : sum >> 1;
    tables[0][byte] = sum;
  }
  for (size_t k = 1; k < 8; ++k)
    for (size_t byte = 0; byte < 256; ++byte) tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 255];
  return tables;
}();

}  // namespace

uint32_t crc32(const void* data, size_t bytes) {
  const auto* next = static_cast<const uint8_t*>(data);
  uint32_t sum = ~0u;
  for (; bytes >= 8; next += 8, bytes -= 8) {
    const uint64_t eight = word(next) ^ sum;
    sum = 0;
    for (int k = 0; k < 8; ++k) sum ^= tables[size_t(7 - k)][eight >> (8 * k) & 255];
  }
  for (; bytes > 0; ++next, --bytes) sum = tables[0][(sum ^ *next) & 255] ^ sum >> 8;
  return ~sum;
}

uint32_t adler32(const void* data, size_t bytes) {
  constexpr uint32_t prime = 65521;
  constexpr size_t most = 5552;  // bytes before the sums no longer fit
  const auto* next = static_cast<const uint8_t*>(data);
  uint32_t sum = 1, sums = 0;
  while (bytes > 0) {
    const uint8_t* end = next + std::min(bytes, most);
    bytes -= size_t(end - next);
    for (; next < end; ++next) sum += *next, sums += sum;
    sum %= prime, sums %= prime;
  }
  return sums << 16 | sum;
}

uint64_t hash64(const void* data, size_t bytes) {
  const auto* next = static_cast<const uint8_t*>(data);
  uint64_t hash = bytes;
  // Both steps are one to one. The second brings the high bits down: the product's low bits depend on low bits alone.
  const auto mix = [&hash](uint64_t in) {
    hash = (hash ^ in) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 32;
  };
  for (; bytes >= 8; next += 8, bytes -= 8) mix(word(next));
  if (bytes > 0) mix(word(next, bytes));
  return hash;
}

}  // namespace pipecast
