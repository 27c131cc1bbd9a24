#include "engine/files/checksum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace pipecast {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read in the byte order of the checksums");

uint64_t load_word(const uint8_t* from, size_t bytes = 8) {
  uint64_t word = 0;
  std::memcpy(&word, from, bytes);
  return word;
}

// Slicing by 8: crc_tables[k][b] is the CRC of byte b and k zero bytes behind it, begun with 0.
constexpr auto crc_tables = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t sum = byte;
    for (int bit = 0; bit < 8; ++bit) sum = (sum & 1) != 0 ? 0xedb88320 ^ (sum >> 1) : sum >> 1;
    tables[0][byte] = sum;
  }
  for (size_t k = 1; k < 8; ++k)
    for (size_t byte = 0; byte < 256; ++byte) tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 255];
  return tables;
}();

}  // namespace

uint32_t crc32(const void* data, size_t bytes) {
  const auto* next = static_cast<const uint8_t*>(data);
  uint32_t sum = ~0u;
  for (; bytes >= 8; next += 8, bytes -= 8) {
    const uint64_t eight = load_word(next) ^ sum;  // the sum goes into the first four of the eight bytes
    sum = 0;
    for (int k = 0; k < 8; ++k) sum ^= crc_tables[size_t(7 - k)][(eight >> (8 * k)) & 255];
  }
  for (; bytes > 0; ++next, --bytes) sum = crc_tables[0][(sum ^ *next) & 255] ^ (sum >> 8);
  return ~sum;
}

uint32_t adler32(const void* data, size_t bytes) {
  constexpr uint32_t prime = 65521;
  constexpr size_t most_bytes = 5552;  // after which b might overflow, without a remainder taken
  const auto* next = static_cast<const uint8_t*>(data);
  uint32_t a = 1, b = 0;  // as in the RFC: 1 + the sum of the bytes, and the sum of all values of a
  while (bytes > 0) {
    const uint8_t* end = next + std::min(bytes, most_bytes);
    bytes -= size_t(end - next);
    for (; next < end; ++next) {
      a += *next;
      b += a;
    }
    a %= prime;
    b %= prime;
  }
  return (b << 16) | a;
}

uint64_t hash64(const void* data, size_t bytes) {
  const auto* next = static_cast<const uint8_t*>(data);
  uint64_t hash = bytes;
  // Each line is a bijection of `hash`, so a word that differs changes it. The shift lets high bits reach the low ones, which a product
  // does not.
  const auto mix = [&hash](uint64_t in) {
    hash = (hash ^ in) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 32;
  };
  for (; bytes >= 8; next += 8, bytes -= 8) mix(load_word(next));
  if (bytes > 0) mix(load_word(next, bytes));
  return hash;
}

}  // namespace pipecast
