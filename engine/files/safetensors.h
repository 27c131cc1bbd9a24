#pragma once
// Reading and writing safetensors files: u64 header size, JSON header, one block of little-endian data.
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/files/durable_file.h"

namespace pipecast {

struct FileTensor {
  std::string type;  // "F32", "I64", "U8", ...: the names of the format
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;

  static FileTensor f32(std::vector<int64_t> shape, const float* values);
  static FileTensor i64(std::vector<int64_t> shape, const int64_t* values);
  int64_t count() const;
  bool is_float() const;   // F32, F64, F16 or BF16
  bool is_number() const;  // one of these or an integer
  // Of a float type, rounded to fp32. Throws UsageError for other types.
  std::vector<float> floats() const;
  // The first element of a number type; nothing where it is no whole number, or one that 64 bits do not hold.
  std::optional<int64_t> whole_number() const;
};

struct SafeTensors {
  std::map<std::string, FileTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// The bytes of a file: the header with its size, then the data, which stay the tensors' own.
struct SerializedTensors {
  std::string header;
  Pieces data;
  Pieces pieces() const;
};

// Throws Error naming the path that the bytes are for: a size that is not the shape's, a name that is reserved or not UTF-8 ...
SerializedTensors serialize_safetensors(const SafeTensors&, const std::string& path);
void write_safetensors(const std::string& path, const SafeTensors&);  // with write_durably

// Bounds first: the header size, every offset and every shape are checked before anything is read through them.
// Throws UsageError naming the path and the defect (truncated, overlapping, unknown type, bad JSON ...).
SafeTensors read_safetensors(const std::string& path);
SafeTensors parse_safetensors(const uint8_t* data, size_t size, const std::string& origin);  // the same over memory, for fuzzing

// The same without a copy: where each tensor's bytes are. They may begin at any address.
struct TensorView {
  std::string type;
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;
};
struct SafeTensorsView {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};
SafeTensorsView view_safetensors(const uint8_t* data, size_t size, const std::string& origin);

}  // namespace pipecast
