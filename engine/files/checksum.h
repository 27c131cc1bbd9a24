#pragma once
// Checksums: they find damage, not malice. For malice there is SHA-256.
#include <cstddef>
#include <cstdint>

namespace pipecast {

// CRC-32 (ISO 3309), as the chunks of a PNG have it.
uint32_t crc32(const void* data, size_t bytes);
// Adler-32 (RFC 1950), at the end of data that zlib compressed.
uint32_t adler32(const void* data, size_t bytes);
// A fast 64-bit hash of our own; digests of data sets are made with it, so it must not change. Two inputs of equal length that differ in
// only one aligned word of 8 bytes have different hashes.
uint64_t hash64(const void* data, size_t bytes);

}  // namespace pipecast
