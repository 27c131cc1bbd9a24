#pragma once
// stb_image with a bound on its memory. All of it is static: each file that includes this has its own, of the formats that it defines
// STBI_ONLY_PNG or STBI_ONLY_JPEG for.
#include <cstdlib>

#include "data/decoders.h"

namespace pipecast {

// Zeroed: a JPEG may name a table of Huffman codes that it never defines, and the decoder then reads the table as it finds it.
inline void* bounded_allocate(size_t bytes) { return bytes > most_allocated ? nullptr : std::calloc(1, bytes); }
inline void* bounded_reallocate(void* memory, size_t bytes) { return bytes > most_allocated ? nullptr : std::realloc(memory, bytes); }

}  // namespace pipecast

#define STBI_MALLOC(bytes) pipecast::bounded_allocate(bytes)
#define STBI_REALLOC(memory, bytes) pipecast::bounded_reallocate(memory, bytes)
#define STBI_FREE(memory) std::free(memory)
#define STBI_NO_STDIO
#define STBI_NO_FAILURE_STRINGS  // one of them is shared by all threads and holds bytes of the file
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
