#pragma once
// Checksums: they find damage, not malice. For malice there is SHA-256.
#include <cstddef>
#include <cstdint>

namespace pipecast {

// CRC-32 (ISO 3309), as the chunks of a PNG have it.
uint32_t crc32(const void* data, size_t bytes);
// Adler-32 (RFC 1950), at the end of data that zlib compressed.
uint32_t adler32(const void* data, size_t bytes);
// 64 bits at the speed of memory. Data of equal length that differ in one word of 8 bytes never have the same.
uint64_t hash64(const void* data, size_t bytes);

}  // namespace pipecast
