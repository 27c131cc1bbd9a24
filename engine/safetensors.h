#pragma once
// Reading and writing safetensors files: u64 header size, JSON header, one block of little-endian data.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pipecast {

struct FileTensor {
  std::string type;  // "F32", "I64", "U8", ...: the names of the format
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;

  static FileTensor f32(std::vector<int64_t> shape, const float* values);
  static FileTensor i64(std::vector<int64_t> shape, const int64_t* values);
  int64_t count() const;
  std::vector<float> floats() const;  // throws UsageError unless F32
};

struct SafeTensors {
  std::map<std::string, FileTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// Written to a temporary name, then renamed: a reader never sees half a file. Throws Error naming the path.
void write_safetensors(const std::string& path, const SafeTensors&);

// Bounds first: the header size, every offset and every shape are checked before anything is read through them.
// Throws UsageError naming the path and the defect (truncated, overlapping, unknown type, bad JSON ...).
SafeTensors read_safetensors(const std::string& path);
SafeTensors parse_safetensors(const uint8_t* data, size_t size, const std::string& origin);  // the same over memory, for fuzzing

}  // namespace pipecast
