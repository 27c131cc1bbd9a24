#include "pipeline/run/checkpoint_store.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/files/durable_file.h"
#include "engine/error.h"
#include "engine/files/json_reader.h"
#include "engine/files/sha256.h"

namespace pipecast {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int format_version = 1;
constexpr size_t digits = 12;  // of a folder's name at least: names sort as their numbers do
constexpr uint64_t manifest_limit = 16 << 20, marker_bytes = 65;
constexpr const char *unfinished = ".tmp", *replaced = ".old";

std::string manifest_of(const std::string& place) { return place + "/manifest.json"; }
std::string marker_of(const std::string& place) { return place + "/complete"; }
std::string file_name(size_t stage) { return "stage-" + std::to_string(stage) + ".safetensors"; }

std::string sha256(const Pieces& pieces) {
  Sha256 digest;
  for (std::span<const uint8_t> piece : pieces) digest.add(piece.data(), piece.size());
  return digest.hex();
}

// The manifest's bytes, once the marker has confirmed them.
std::vector<uint8_t> confirmed_manifest(const std::string& place) {
  const std::vector<uint8_t> marker = read_file(marker_of(place), marker_bytes);
  std::vector<uint8_t> manifest = read_file(manifest_of(place), manifest_limit);
  if (std::string(marker.begin(), marker.end()) != sha256({manifest}) + "\n")
    throw UsageError("'" + marker_of(place) + "' and '" + manifest_of(place) + "' do not belong together: one of them is damaged");
  return manifest;
}

bool is_complete(const std::string& place) {
  try {
    confirmed_manifest(place);
    return true;
  } catch (const UsageError&) {
    return false;
  }
}

// Without a marker: an interrupted write's or an interrupted removal's. A marker that cannot be read is not taken for none.
bool is_leftover(const std::string& place) {
  std::error_code ignored;
  return fs::is_directory(place, ignored) && fs::status(marker_of(place), ignored).type() == fs::file_type::not_found;
}

// The marker goes first: what an interruption leaves is no checkpoint.
void discard(const std::string& place) {
  std::error_code failure;
  if (fs::remove(marker_of(place), failure)) sync_folder(place);
  if (!failure) fs::remove_all(place, failure);
  if (failure) throw Error("cannot remove '" + place + "': " + failure.message() + "; check the folder's permissions");
}

SafeTensors read_stage(const std::string& place, const Manifest::File& file) {
  const std::string path = place + "/" + file.name;
  const std::vector<uint8_t> bytes = read_file(path, uint64_t(file.bytes));
  if (int64_t(bytes.size()) != file.bytes)
    throw UsageError("'" + path + "' has " + std::to_string(bytes.size()) + " bytes of " + std::to_string(file.bytes) +
                     ": it was truncated");
  if (sha256({bytes}) != file.sha256) throw UsageError("'" + path + "' is damaged: its SHA-256 is not the one in manifest.json");
  return parse_safetensors(bytes.data(), bytes.size(), path);
}

// Writes the files of a checkpoint; returns the manifest's SHA-256.
std::string write_files(const std::string& place, const Checkpoint& checkpoint) {
  json manifest = {{"version", format_version}, {"minibatch", checkpoint.minibatch}, {"description", checkpoint.description}};
  manifest["files"] = json::array();
  for (size_t k = 0; k < checkpoint.stages.size(); ++k) {
    const std::string path = place + "/" + file_name(k);
    const SerializedTensors serialized = serialize_safetensors(checkpoint.stages[k], path);
    const Pieces pieces = serialized.pieces();
    write_synced(path, pieces);
    size_t bytes = 0;
    for (std::span<const uint8_t> piece : pieces) bytes += piece.size();
    manifest["files"].push_back({{"name", file_name(k)}, {"bytes", bytes}, {"sha256", sha256(pieces)}});
  }
  std::string text;
  try {
    text = manifest.dump(1) + "\n";
  } catch (const json::exception&) {
    throw Error("cannot write '" + manifest_of(place) + "': the checkpoint's description is not UTF-8");
  }
  if (text.size() > manifest_limit)
    throw Error("cannot write '" + manifest_of(place) + "': the checkpoint's description is larger than " +
                std::to_string(manifest_limit >> 20) + " MiB");
  write_synced(manifest_of(place), pieces_of(text));
  sync_folder(place);
  return sha256(pieces_of(text));
}

}  // namespace

Manifest parse_manifest(const uint8_t* data, size_t size, const std::string& origin) {
  const std::string start = "'" + origin + "' is no usable manifest: ";
  auto check = [&](bool good, const std::string& defect) {
    if (!good) throw UsageError(start + defect);
  };
  // These and no others.
  auto check_keys = [&](const json& object, const std::string& what, const std::vector<std::string>& keys) {
    check(object.is_object(), what + " is not an object");
    for (const std::string& key : keys) check(object.contains(key), what + " has no '" + key + "'");
    check(object.size() == keys.size(), what + " has keys that are unknown");
  };
  const json root = parse_json(reinterpret_cast<const char*>(data), size, start + "the text");
  check(root.is_object() && root.contains("version"), "it has no 'version'");
  check(root["version"] == format_version, "it has the version " + shown(root["version"].dump()) + ", this program reads version " +
                                               std::to_string(format_version) + "; use the program that wrote it");
  check_keys(root, "it", {"version", "minibatch", "description", "files"});
  check(root["description"].is_string(), "its description is not a string");
  check(root["files"].is_array(), "its files are not an array");

  Manifest manifest{size_of_json(root["minibatch"], start + "its mini-batch"), root["description"], {}};
  for (const json& file : root["files"]) {
    const std::string name = file_name(manifest.files.size()), what = "file " + std::to_string(manifest.files.size());
    check_keys(file, what, {"name", "bytes", "sha256"});
    check(file["name"] == name, what + " is not called " + name);  // and so stands in the checkpoint's folder
    const json& digest = file["sha256"];
    check(digest.is_string() && digest.get_ref<const std::string&>().size() == 64 &&
              digest.get_ref<const std::string&>().find_first_not_of("0123456789abcdef") == std::string::npos,
          what + " has a sha256 that is not 64 digits");
    manifest.files.push_back({name, size_of_json(file["bytes"], start + what + ": its bytes"), digest});
  }
  return manifest;
}

std::string CheckpointStore::place_of(int64_t minibatch) const {
  const std::string number = std::to_string(minibatch);
  return folder_ + "/" + std::string(digits - std::min(digits, number.size()), '0') + number;
}

// All that have a folder here, complete or not; ascending.
std::vector<int64_t> CheckpointStore::minibatches() const {
  std::set<int64_t> found;
  std::error_code failure;
  fs::directory_iterator entry(folder_, failure);
  if (failure == std::errc::no_such_file_or_directory) return {};
  for (; !failure && entry != fs::directory_iterator(); entry.increment(failure)) {
    std::string name = entry->path().filename();
    for (const std::string suffix : {unfinished, replaced})
      if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
    int64_t minibatch = -1;
    std::from_chars(name.data(), name.data() + name.size(), minibatch);
    if (minibatch >= 0 && place_of(minibatch) == folder_ + "/" + name) found.insert(minibatch);
  }
  if (failure) throw UsageError("folder '" + folder_ + "' cannot be listed: " + failure.message() + "; is it a run's checkpoints?");
  return {found.begin(), found.end()};
}

std::vector<int64_t> CheckpointStore::complete() const {
  std::vector<int64_t> found = minibatches();
  std::erase_if(found, [&](int64_t minibatch) {
    const std::string place = place_of(minibatch);
    return !is_complete(place) && !is_complete(place + replaced);
  });
  return found;
}

void CheckpointStore::write(const Checkpoint& checkpoint) const {
  if (checkpoint.minibatch < 0) throw UsageError("a checkpoint cannot be of mini-batch " + std::to_string(checkpoint.minibatch));
  const std::string place = place_of(checkpoint.minibatch), fresh = place + unfinished, aside = place + replaced;
  make_folder_durably(folder_);
  discard(fresh);
  try {
    make_folder_durably(fresh);
    const std::string digest = write_files(fresh, checkpoint);
    if (is_complete(place)) {
      discard(aside);
      rename_durably(place, aside);
    } else {
      discard(place);
    }
    rename_durably(fresh, place);
    write_durably(marker_of(place), pieces_of(digest + "\n"));
  } catch (const Error&) {
    try {
      discard(fresh);
      if (is_leftover(place)) discard(place);
    } catch (const Error&) {  // a leftover is never taken for a checkpoint; what matters is why there is one
    }
    throw;
  }
  discard(aside);
}

std::string CheckpointStore::what_to_do(int64_t minibatch) const {
  std::vector<int64_t> others = complete();
  std::erase(others, minibatch);
  if (others.empty()) return "; there is no other complete checkpoint in '" + folder_ + "': train again from the beginning";
  return "; remove '" + place_of(minibatch) + "' and continue from mini-batch " + std::to_string(others.back());
}

Checkpoint CheckpointStore::read(int64_t minibatch) const {
  const std::string usual = place_of(minibatch), aside = usual + replaced;
  const std::string place = !is_complete(usual) && is_complete(aside) ? aside : usual;
  std::error_code ignored;
  if (!fs::exists(place, ignored)) {
    std::string list;
    for (int64_t other : complete()) list += (list.empty() ? "" : ", ") + std::to_string(other);
    throw UsageError("there is no checkpoint of mini-batch " + std::to_string(minibatch) + " in '" + folder_ +
                     "'; complete ones are of: " + (list.empty() ? "none" : list));
  }
  try {
    const std::vector<uint8_t> bytes = confirmed_manifest(place);
    Manifest manifest = parse_manifest(bytes.data(), bytes.size(), manifest_of(place));
    if (manifest.minibatch != minibatch)
      throw UsageError("'" + place + "' holds the checkpoint of mini-batch " + std::to_string(manifest.minibatch) + ": it was renamed");
    Checkpoint checkpoint{minibatch, std::move(manifest.description), {}};
    for (const Manifest::File& file : manifest.files) checkpoint.stages.push_back(read_stage(place, file));
    return checkpoint;
  } catch (const UsageError& error) {
    throw UsageError("the checkpoint of mini-batch " + std::to_string(minibatch) + " cannot be used: " + error.what() +
                     what_to_do(minibatch));
  }
}

void CheckpointStore::prune(int keep, std::optional<int64_t> best) const {
  if (keep < 0) throw UsageError("the last " + std::to_string(keep) + " checkpoints cannot be kept; give 0 or more");
  std::vector<int64_t> dropped = complete();
  dropped.resize(dropped.size() - std::min(dropped.size(), size_t(keep)));
  if (best) std::erase(dropped, *best);
  for (int64_t minibatch : minibatches()) {
    const std::string place = place_of(minibatch), aside = place + replaced;
    const bool drop = std::binary_search(dropped.begin(), dropped.end(), minibatch);
    discard(place + unfinished);
    // The one that was put aside goes first: it would count again once the one in its place is gone.
    if (drop || is_leftover(aside) || is_complete(place)) discard(aside);
    if (drop || is_leftover(place)) discard(place);
  }
}

}  // namespace pipecast
