#include "engine/files/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "engine/error.h"
#include "engine/files/json_reader.h"

namespace pipecast {

static_assert(std::endian::native == std::endian::little, "the files are little-endian and are copied as they are");

namespace {

using nlohmann::json;
constexpr const char* metadata_key = "__metadata__";
constexpr uint64_t header_limit = 100'000'000;

// Bits of an element; 0 for a type that the format does not have. A file may hold any of them, also those that nothing here computes with.
int64_t element_bits(const std::string& type) {
  static const std::map<std::string, int64_t> bits = {
      {"BOOL", 8},    {"U8", 8},      {"I8", 8},      {"I16", 16},    {"U16", 16},        {"F16", 16},       {"BF16", 16}, {"I32", 32},
      {"U32", 32},    {"F32", 32},    {"F64", 64},    {"I64", 64},    {"U64", 64},        {"C64", 64},       {"F4", 4},    {"F6_E2M3", 6},
      {"F6_E3M2", 6}, {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};
  auto found = bits.find(type);
  return found == bits.end() ? 0 : found->second;
}

// Whether so many elements take so many bytes: packed, and the last byte full.
bool fills(const std::string& type, int64_t count, size_t bytes) {
  return element_bits(type) > 0 && __int128(count) * element_bits(type) == __int128(bytes) * 8;
}

// Everything that can be wrong with a file, said in one form.
struct Origin {
  std::string name;
  std::string sentence(const std::string& defect) const { return "'" + name + "' is no usable safetensors file: " + defect; }
  [[noreturn]] void refuse(const std::string& defect) const { throw UsageError(sentence(defect)); }
};

// One tensor as the header describes it.
struct Entry {
  std::string name;
  TensorView tensor;  // without bytes
  int64_t begin = 0, end = 0;
};

Entry parse_entry(const std::string& name, const json& value, const Origin& origin) {
  const std::string what = "tensor '" + shown(name) + "'";
  if (!value.is_object()) origin.refuse(what + " is not described by an object");
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!value.contains(key)) origin.refuse(what + " has no '" + key + "'");
  if (value.size() != 3) origin.refuse(what + " has other keys than dtype, shape and data_offsets");

  Entry entry{name, {}, 0, 0};
  const json &type = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  if (!type.is_string() || element_bits(type) == 0) origin.refuse(what + " has the unknown type " + shown(type.dump()));
  entry.tensor.type = type;
  if (!shape.is_array()) origin.refuse(what + " has a shape that is not an array");
  int64_t count = 1;
  for (const json& dimension : shape) {
    entry.tensor.shape.push_back(size_of_json(dimension, origin.sentence(what + ": a dimension")));
    if (__builtin_mul_overflow(count, entry.tensor.shape.back(), &count)) origin.refuse(what + " has a shape too large to exist");
  }
  if (!offsets.is_array() || offsets.size() != 2) origin.refuse(what + " has data_offsets that are not two numbers");
  entry.begin = size_of_json(offsets[0], origin.sentence(what + ": its first offset"));
  entry.end = size_of_json(offsets[1], origin.sentence(what + ": its last offset"));
  if (entry.end < entry.begin) origin.refuse(what + " ends before it begins");
  const __int128 bits = __int128(count) * element_bits(type);
  if (bits / 8 > INT64_MAX) origin.refuse(what + " has a shape too large to exist");
  if (bits % 8 != 0) origin.refuse(what + " has a shape whose elements do not fill whole bytes");
  if (entry.end - entry.begin != int64_t(bits / 8))
    origin.refuse(what + " has " + std::to_string(entry.end - entry.begin) + " bytes of data where its shape needs " +
                  std::to_string(int64_t(bits / 8)));
  return entry;
}

// What a file that does not begin with the size of a header may be instead; "" where nothing is known of it.
std::string other_kind(std::string_view text) {
  if (text.starts_with("PK\3\4")) return "it is a zip archive, as torch.save writes; save the state_dict with safetensors.torch.save_file";
  if (text.starts_with("version https://git-lfs")) return "it is a pointer of git-lfs to the file; fetch that with 'git lfs pull'";
  return "";
}

template <class T>
FileTensor tensor_of(const char* type, std::vector<int64_t> shape, const T* values) {
  FileTensor tensor{type, std::move(shape), {}};
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(values);
  tensor.bytes.assign(bytes, bytes + tensor.count() * int64_t(sizeof(T)));
  return tensor;
}

// IEEE 754 binary16: a sign, 5 bits of exponent, 10 of fraction.
float float_of_half(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  float value;
  if (exponent == 31) value = fraction ? NAN : INFINITY;
  else if (exponent == 0) value = std::ldexp(float(fraction), -24);
  else value = std::ldexp(float(1024 + fraction), exponent - 25);
  return std::copysign(value, half >> 15 ? -1.f : 1.f);
}

template <class T, class F>
std::vector<float> values_of(const std::vector<uint8_t>& bytes, F value) {
  std::vector<float> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T element;
    std::memcpy(&element, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = value(element);
  }
  return values;
}

template <class T>
std::optional<int64_t> whole(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!(std::abs(value) < T(0x1p63)) || value != std::floor(value)) return {};
  } else if (!std::in_range<int64_t>(value)) {
    return {};
  }
  return int64_t(value);
}

template <class T>
std::optional<int64_t> whole_element(const FileTensor& tensor) {
  T element;
  std::memcpy(&element, tensor.bytes.data(), sizeof element);
  return whole(element);
}

std::optional<int64_t> whole_float(const FileTensor& tensor) { return whole(tensor.floats().front()); }

using WholeNumber = std::optional<int64_t> (*)(const FileTensor&);
const std::map<std::string, WholeNumber>& whole_numbers() {
  static const std::map<std::string, WholeNumber> of_type = {{"U8", whole_element<uint8_t>},
                                                             {"U16", whole_element<uint16_t>},
                                                             {"U32", whole_element<uint32_t>},
                                                             {"U64", whole_element<uint64_t>},
                                                             {"I8", whole_element<int8_t>},
                                                             {"I16", whole_element<int16_t>},
                                                             {"I32", whole_element<int32_t>},
                                                             {"I64", whole_element<int64_t>},
                                                             {"F16", whole_float},
                                                             {"BF16", whole_float},
                                                             {"F32", whole_float},
                                                             {"F64", whole_element<double>}};
  return of_type;
}

}  // namespace

FileTensor FileTensor::f32(std::vector<int64_t> shape, const float* values) { return tensor_of("F32", std::move(shape), values); }
FileTensor FileTensor::i64(std::vector<int64_t> shape, const int64_t* values) { return tensor_of("I64", std::move(shape), values); }

int64_t FileTensor::count() const { return std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>()); }

bool FileTensor::is_float() const { return type == "F32" || type == "F64" || type == "F16" || type == "BF16"; }
bool FileTensor::is_number() const { return whole_numbers().count(type) > 0; }
std::optional<int64_t> FileTensor::whole_number() const { return whole_numbers().at(type)(*this); }

std::vector<float> FileTensor::floats() const {
  if (type == "F32") return values_of<float>(bytes, [](float value) { return value; });
  if (type == "F64") return values_of<double>(bytes, [](double value) { return float(value); });
  if (type == "BF16") return values_of<uint16_t>(bytes, [](uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); });
  if (type == "F16") return values_of<uint16_t>(bytes, float_of_half);
  throw UsageError("a tensor of type " + type + " was found where F32, F64, F16 or BF16 is needed; convert it to F32");
}

SafeTensorsView view_safetensors(const uint8_t* data, size_t size, const std::string& name) {
  const Origin origin{name};
  uint64_t header_bytes = 0;
  if (size < sizeof header_bytes) origin.refuse("it has " + std::to_string(size) + " bytes, too few for the size of a header");
  std::memcpy(&header_bytes, data, sizeof header_bytes);
  if (const std::string kind = other_kind(text_of({data, size})); !kind.empty() && header_bytes > size - sizeof header_bytes) origin.refuse(kind);
  if (header_bytes > header_limit)
    origin.refuse("its header claims " + std::to_string(header_bytes) + " bytes, more than the format's limit of 100000000");
  if (header_bytes > size - sizeof header_bytes)
    origin.refuse("its header claims " + std::to_string(header_bytes) + " bytes, the file has " + std::to_string(size) + " (truncated?)");
  const json header = parse_json(reinterpret_cast<const char*>(data) + sizeof header_bytes, header_bytes, origin.sentence("the header"));
  if (!header.is_object()) origin.refuse("the header is not an object");

  SafeTensorsView file;
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key != metadata_key) {
      entries.push_back(parse_entry(key, value, origin));
      continue;
    }
    if (!value.is_object() && !value.is_null()) origin.refuse("__metadata__ is not an object");
    for (const auto& [label, text] : value.items()) {
      if (!text.is_string()) origin.refuse("the metadata '" + shown(label) + "' is not a string");
      file.metadata[label] = text;
    }
  }

  // The data is one block that the tensors fill from its first byte to its last.
  const uint8_t* block = data + sizeof header_bytes + header_bytes;
  const int64_t block_bytes = int64_t(size - sizeof header_bytes - header_bytes);
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  int64_t filled = 0;
  for (Entry& entry : entries) {
    if (entry.begin != filled) {
      origin.refuse("tensor '" + shown(entry.name) + "' begins at byte " + std::to_string(entry.begin) + " of the data, where " +
                    (entry.begin < filled ? "another tensor lies" : "a hole was left") + " (expected " + std::to_string(filled) + ")");
    }
    if (entry.end > block_bytes) {
      origin.refuse("tensor '" + shown(entry.name) + "' ends at byte " + std::to_string(entry.end) + " of the data, of which there are " +
                    std::to_string(block_bytes) + " (truncated?)");
    }
    filled = entry.end;
    entry.tensor.bytes = {block + entry.begin, block + entry.end};
    file.tensors[entry.name] = std::move(entry.tensor);
  }
  if (filled != block_bytes) origin.refuse(std::to_string(block_bytes - filled) + " bytes follow the last tensor");
  return file;
}

SafeTensors parse_safetensors(const uint8_t* data, size_t size, const std::string& name) {
  SafeTensorsView view = view_safetensors(data, size, name);
  SafeTensors file{{}, std::move(view.metadata)};
  for (auto& [tensor_name, tensor] : view.tensors)
    file.tensors[tensor_name] = {std::move(tensor.type), std::move(tensor.shape), {tensor.bytes.begin(), tensor.bytes.end()}};
  return file;
}

SafeTensors read_safetensors(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path);
  return parse_safetensors(bytes.data(), bytes.size(), path);
}

SerializedTensors serialize_safetensors(const SafeTensors& contents, const std::string& path) {
  // Wide elements first, then by name: so every tensor is aligned to its element, which some readers ask for.
  std::vector<const std::pair<const std::string, FileTensor>*> order;
  for (const auto& item : contents.tensors) {
    const auto& [name, tensor] = item;
    if (name == metadata_key || !fills(tensor.type, tensor.count(), tensor.bytes.size()))
      throw Error("cannot write '" + path + "': tensor '" + name +
                  "' has a reserved name, an unknown type or a size that is not its shape's");
    order.push_back(&item);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](auto* a, auto* b) { return element_bits(a->second.type) > element_bits(b->second.type); });

  SerializedTensors serialized;
  std::string header;
  try {
    json description = json::object();
    if (!contents.metadata.empty()) description[metadata_key] = contents.metadata;
    size_t offset = 0;
    for (const auto* item : order) {
      const auto& [name, tensor] = *item;
      description[name] = {{"dtype", tensor.type}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes.size()}}};
      offset += tensor.bytes.size();
      serialized.data.emplace_back(tensor.bytes);
    }
    header = description.dump();
  } catch (const json::exception&) {
    throw Error("cannot write '" + path + "': a name or a text in it is not UTF-8");
  }
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = header.size();
  serialized.header.assign(reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes).append(header);
  return serialized;
}

Pieces SerializedTensors::pieces() const {
  Pieces pieces = pieces_of(header);
  pieces.insert(pieces.end(), data.begin(), data.end());
  return pieces;
}

void write_safetensors(const std::string& path, const SafeTensors& contents) {
  write_durably(path, serialize_safetensors(contents, path).pieces());
}

}  // namespace pipecast
