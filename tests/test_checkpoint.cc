// Checkpoints on the disk: what is written reads back, every damage is noticed, and whatever happens during a write, earlier checkpoints
// stay whole and no half of a new one counts.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "engine/files/durable_file.h"
#include "engine/error.h"
#include "engine/random.h"
#include "engine/files/sha256.h"
#include "pipeline/run/checkpoint_store.h"
#include "tests/message_of.h"

using namespace pipecast;
using pipecast::testing::message_of;
using doctest::Contains;
namespace fs = std::filesystem;

// ---------------------------------------------------------------------------------------------------------------------
// The calls that change a disk, watched: this program's definitions stand before the C library's.

namespace {

struct Disk {
  bool watched = false;
  int calls = 0, die_at = 0, fail_at = 0;   // counted from 1
  int reason = EIO;                         // of the failure
  size_t most_bytes = SIZE_MAX;             // that one call writes
  std::map<std::string, int> by_name = {};  // number of calls

  // What a loss of power would take: files by their contents, folders by the names in them; and what was done too early.
  std::set<std::string> unsynced = {};
  std::vector<std::string> mistakes = {};
  std::map<int, std::string> files = {};  // open ones, by descriptor
} disk;

std::string parent_of(const std::string& path) { return fs::path(path).parent_path(); }

// Whether the call is to be made.
bool counted(const char* name) {
  if (!disk.watched) return true;
  ++disk.by_name[name];
  ++disk.calls;
  if (disk.calls == disk.die_at) kill(getpid(), SIGKILL);
  if (disk.calls != disk.fail_at) return true;
  errno = disk.reason;
  return false;
}

// Before what takes an old state away or makes a new one count, all that it relies on is on the disk: everything below `top`.
void check_synced(const std::string& action, const std::string& top, const std::string& except = "") {
  if (!disk.watched) return;
  for (const std::string& path : disk.unsynced)
    if (path.starts_with(top) && path != except) disk.mistakes.push_back(action + " before the sync of " + path);
}

template <class T>
T changed(T result, const std::string& path) {
  if (disk.watched && result >= 0) disk.unsynced.insert(path);
  return result;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
  va_end(rest);
  const bool creates = flags & O_CREAT;
  if (creates && !counted("open")) return -1;
  const int file = openat(AT_FDCWD, path, flags, mode);
  if (disk.watched && file >= 0) disk.files[file] = path;
  return creates ? changed(file, parent_of(path)) : file;
}

ssize_t write(int file, const void* data, size_t bytes) {
  if (!counted("write")) return -1;
  const ssize_t written = syscall(SYS_write, file, data, disk.watched ? std::min(bytes, disk.most_bytes) : bytes);
  return disk.watched ? changed(written, disk.files[file]) : written;
}

int fsync(int file) {
  if (!counted("fsync")) return -1;
  if (disk.watched) disk.unsynced.erase(disk.files[file]);
  return int(syscall(SYS_fsync, file));
}

int rename(const char* from, const char* to) noexcept {
  if (!counted("rename")) return -1;
  check_synced(std::string("rename to ") + to, from);
  if (std::string(to).ends_with("/complete")) check_synced("marker", "", parent_of(to));
  return changed(renameat(AT_FDCWD, from, AT_FDCWD, to), parent_of(to));
}

int mkdir(const char* path, mode_t mode) noexcept {
  if (!counted("mkdir")) return -1;
  return changed(mkdirat(AT_FDCWD, path, mode), parent_of(path));
}

int remove(const char* path) noexcept {
  struct stat status;
  if (lstat(path, &status) != 0) return -1;
  const bool marker = std::string(path).ends_with("/complete");
  if (!counted(marker ? "remove marker" : "remove")) return -1;
  check_synced(std::string("removal of ") + path, "");
  const int result = int(syscall(SYS_unlinkat, AT_FDCWD, path, S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0));
  return marker ? changed(result, parent_of(path)) : result;
}

// What std::filesystem::remove_all calls, or remove, for the rest of a folder whose marker is gone: that must be on the disk.
int unlinkat(int folder, const char* name, int flags) noexcept {
  if (!counted("unlinkat")) return -1;
  check_synced(std::string("removal of ") + name, "");
  return int(syscall(SYS_unlinkat, folder, name, flags));
}

}  // extern "C"

namespace {

// The disk is watched while it lives.
struct Watched {
  explicit Watched(Disk settings = {}) {
    disk = std::move(settings);
    disk.watched = true;
  }
  ~Watched() { disk.watched = false; }
};

// A folder of this test's own, in memory where there is such a place: a thousand syncs take time.
struct Folder {
  fs::path path = (fs::is_directory("/dev/shm") && access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path()) /
                  ("pipecast_test_checkpoint_" + std::to_string(getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directory(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return path / name; }
};

// What the call returns or what it throws, in a process of its own.
std::string in_child(const std::function<std::string()>& call) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    std::string text;
    try {
      text = call();
    } catch (const std::exception& error) {
      text = error.what();
    }
    _exit(write(ends[1], text.data(), text.size()) == ssize_t(text.size()) ? 0 : 1);
  }
  close(ends[1]);
  std::string text(4096, '\0');
  size_t size = 0;
  for (ssize_t got; (got = read(ends[0], text.data() + size, text.size() - size)) > 0;) size += size_t(got);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 ? text.substr(0, size) : "the process died";
}

// No two numbers, and no two variants, have the same contents.
Checkpoint example(int64_t minibatch, int variant = 0, int stages = 2, int64_t floats = 6) {
  Checkpoint checkpoint{
      minibatch, "{\"position\": " + std::to_string(minibatch) + ",\n \"größe\": \"\\\"" + std::to_string(variant) + "\"}", {}};
  for (int k = 0; k < stages; ++k) {
    std::vector<float> values(size_t(floats), float(minibatch) + 0.1f * float(k));
    const uint32_t odd[3] = {0x7fc0dead, 0x80000000, 0x00000001};  // a NaN with a payload, -0, the smallest denormal
    std::memcpy(values.data(), odd, sizeof odd);
    const int64_t counter = (int64_t(1) << 40) + variant;
    SafeTensors stage;
    stage.tensors["weight"] = FileTensor::f32({1, floats}, values.data());
    stage.tensors["counter"] = FileTensor::i64({}, &counter);
    stage.tensors["empty"] = FileTensor::f32({0, 4}, nullptr);
    stage.metadata = {{"stage", std::to_string(k)}, {"größe", "\"x\"\n"}};
    checkpoint.stages.push_back(std::move(stage));
  }
  return checkpoint;
}

bool same(const SafeTensors& a, const SafeTensors& b) {
  return a.metadata == b.metadata &&
         std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), b.tensors.end(), [](const auto& x, const auto& y) {
           return x.first == y.first && x.second.type == y.second.type && x.second.shape == y.second.shape &&
                  x.second.bytes == y.second.bytes;
         });
}

bool same(const Checkpoint& a, const Checkpoint& b) {
  return a.minibatch == b.minibatch && a.description == b.description &&
         std::equal(a.stages.begin(), a.stages.end(), b.stages.begin(), b.stages.end(),
                    [](const SafeTensors& x, const SafeTensors& y) { return same(x, y); });
}

using Numbers = std::vector<int64_t>;
const std::string fifth = "/000000000005", sixth = "/000000000006", seventh = "/000000000007";

std::string bytes_of(const std::string& path) {
  const std::vector<uint8_t> bytes = read_file(path);
  return {bytes.begin(), bytes.end()};
}

void overwrite(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary | std::ios::trunc) << text; }

// A manifest with the marker that confirms it.
void seal(const std::string& place, const std::string& manifest) {
  Sha256 digest;
  digest.add(manifest.data(), manifest.size());
  overwrite(place + "/manifest.json", manifest);
  overwrite(place + "/complete", digest.hex() + "\n");
}

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  REQUIRE(text.find(from) != std::string::npos);
  return text.replace(text.find(from), from.size(), to);
}

// A disturbance of something done to a store that holds mini-batches 5 and 6; then the promises are checked.
void disturbed(const Checkpoint& added, const std::function<void(const CheckpointStore&)>& disturb) {
  const Folder folder;
  const CheckpointStore store(folder / "checkpoints");
  store.write(example(5));
  store.write(example(6));
  disturb(store);
  Numbers found = store.complete();
  REQUIRE(found.size() >= 2);
  CHECK(same(store.read(5), example(5)));
  for (int64_t minibatch : found) {
    const Checkpoint read = store.read(minibatch);
    const bool is_added = minibatch == added.minibatch && same(read, added);
    const bool is_old = minibatch < 7 && same(read, example(minibatch));
    CHECK((is_added || is_old));
  }
  std::erase(found, added.minibatch);
  CHECK(found == (added.minibatch == 6 ? Numbers{5} : Numbers{5, 6}));

  store.write(added);  // nothing that was left is in the way
  CHECK(same(store.read(added.minibatch), added));
  store.prune(3, {});
  CHECK(names_in(store.folder()).size() == (added.minibatch == 6 ? 2 : 3));
  for (int64_t minibatch : store.complete()) CHECK(same(store.read(minibatch), minibatch == added.minibatch ? added : example(minibatch)));
}

const std::vector<Checkpoint> additions = {example(7), example(6, 1)};  // a new one; one in the place of an old one

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Files

TEST_CASE("a file is replaced as a whole, and a device or a pipe is written to") {
  const Folder folder;
  const std::string path = folder / "file";
  write_durably(path, pieces_of("first"));
  write_durably(path, {pieces_of("sec")[0], {}, pieces_of("ond")[0]});
  CHECK(bytes_of(path) == "second");
  CHECK(names_in(folder.path) == std::set<std::string>{"file"});

  const std::string named = folder / "pipe";
  REQUIRE(mkfifo(named.c_str(), 0600) == 0);
  const int reader = open(named.c_str(), O_RDWR);
  write_durably(named, pieces_of("through"));
  CHECK(fs::is_fifo(named));
  char text[8] = {};
  CHECK(read(reader, text, 7) == 7);
  CHECK(std::string(text) == "through");
  close(reader);
  CHECK(message_of<UsageError>([&] { read_file(named); }) == Contains("cannot read"));  // and nobody waits for a writer
  CHECK(message_of<UsageError>([&] { read_file(path, 5); }) == Contains("6 bytes, more than the 5"));
  CHECK(message_of<Error>([&] { write_durably(folder.path, pieces_of("x")); }) == Contains("Is a directory"));

  make_folder_durably(folder / "a/b/c/");
  make_folder_durably(folder / "a/b/c");
  CHECK(fs::is_directory(folder / "a/b/c"));
  CHECK(message_of<Error>([&] { make_folder_durably(folder / "file/b"); }) == Contains("/file': File exists"));
}

TEST_CASE("a file that is replaced keeps its permissions, and a link to it still leads there") {
  const Folder folder;
  fs::create_directory(folder / "far");
  const std::string link = folder / "link", target = folder / "far/file";
  write_durably(target, pieces_of("first"));
  fs::permissions(target, fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("far/file", link);
  write_durably(link, pieces_of("second"));
  CHECK(fs::is_symlink(link));
  CHECK(bytes_of(target) == "second");
  CHECK(fs::status(target).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(names_in(folder.path) == std::set<std::string>{"far", "link"});
  CHECK(names_in(folder / "far") == std::set<std::string>{"file"});
}

TEST_CASE("whichever call fails, a file has its old contents or its new ones and nothing is left beside it") {
  const Folder folder;
  const std::string path = folder / "file";
  for (int call = 1;; ++call) {
    overwrite(path, "old");
    doctest::String error;
    {
      const Watched watched({.fail_at = call});
      error = message_of<Error>([&] { write_durably(path, pieces_of("new")); });
      if (disk.calls < call) {
        CHECK(call > 5);  // open, write, fsync, rename, fsync
        break;
      }
    }
    CAPTURE(call);
    CHECK(error == Contains(call < 5 ? path.c_str() : folder.path.c_str()));
    CHECK(error == Contains("Input/output error; check the disk's free space"));
    CHECK(bytes_of(path) == (call < 5 ? "old" : "new"));
    CHECK(names_in(folder.path) == std::set<std::string>{"file"});
  }
  {
    const Watched watched({.fail_at = 2, .reason = EINTR, .most_bytes = 1});
    write_durably(path, pieces_of("piecemeal"));
  }
  CHECK(bytes_of(path) == "piecemeal");
  {
    const Watched watched({.fail_at = 5, .reason = EINVAL});  // a file system whose folders cannot be synced
    write_durably(path, pieces_of("new"));
  }
  CHECK(bytes_of(path) == "new");
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

TEST_CASE("a checkpoint reads back bit for bit") {
  const Folder folder;
  const CheckpointStore store(folder / "run/checkpoints");
  CHECK(store.complete().empty());
  for (int stages : {0, 1, 2, 64}) {
    const Checkpoint written = example(100 + stages, stages, stages);
    store.write(written);
    CHECK(same(store.read(100 + stages), written));
  }
  Checkpoint bare{int64_t(1) << 50, "", {SafeTensors{}}};
  store.write(bare);
  CHECK(same(store.read(bare.minibatch), bare));
  CHECK(store.complete() == Numbers{100, 101, 102, 164, bare.minibatch});
  CHECK(names_in(store.folder() + "/000000000102") ==
        std::set<std::string>{"stage-0.safetensors", "stage-1.safetensors", "manifest.json", "complete"});
  CHECK(names_in(store.folder()).size() == 5);

  store.write(example(102, 7, 1));  // fewer stages than before: none of the old ones stays
  CHECK(same(store.read(102), example(102, 7, 1)));
  CHECK(names_in(store.folder() + "/000000000102").size() == 3);
  CHECK(names_in(store.folder()).size() == 5);
}

TEST_CASE("any byte flipped in any file is noticed") {
  const Folder folder;
  const CheckpointStore store(folder.path);
  store.write(example(5));
  int flips = 0, missed = 0;
  for (const std::string& name : names_in(folder.path / "000000000005")) {
    const std::string path = folder.path.string() + fifth + "/" + name, whole = bytes_of(path);
    std::string changed = whole;
    for (size_t i = 0; i < whole.size(); ++i) {
      for (int mask : {1 << (i % 8), 0x20, 0xff}) {
        changed[i] = char(whole[i] ^ mask);
        overwrite(path, changed);
        const doctest::String error = message_of<UsageError>([&] { store.read(5); });
        missed += !(error == Contains(name.c_str())) || !(error == Contains("train again from the beginning"));
        missed += (name == "manifest.json" || name == "complete") && !store.complete().empty();
        ++flips;
      }
      changed[i] = whole[i];
    }
    overwrite(path, whole);
  }
  CHECK(flips > 3000);
  CHECK(missed == 0);
  CHECK(same(store.read(5), example(5)));
}

TEST_CASE("a file cut anywhere, longer than it was, or gone is noticed") {
  const Folder folder;
  const CheckpointStore store(folder.path);
  store.write(example(5));
  store.write(example(6));
  int missed = 0;
  for (const std::string& name : names_in(folder.path / "000000000006")) {
    const std::string path = folder.path.string() + sixth + "/" + name, whole = bytes_of(path);
    auto check = [&] {
      const doctest::String error = message_of<UsageError>([&] { store.read(6); });
      missed += !(error == Contains(name.c_str())) || !(error == Contains("000000000006' and continue from mini-batch 5"));
    };
    for (size_t size = 0; size < whole.size(); ++size) {
      overwrite(path, whole.substr(0, size));
      check();
    }
    for (size_t more : {1, 5000}) {
      overwrite(path, whole + std::string(more, '\0'));
      check();
    }
    fs::remove(path);
    check();
    fs::create_directory(path);
    check();
    fs::remove(path);
    overwrite(path, whole);
  }
  CHECK(missed == 0);
  CHECK(same(store.read(6), example(6)));
}

TEST_CASE("what is no checkpoint, or another's, is refused with a sentence") {
  const Folder folder;
  const CheckpointStore store(folder / "checkpoints");
  CHECK(message_of<UsageError>([&] { store.read(5); }) == Contains("no checkpoint of mini-batch 5"));
  store.write(example(5));
  store.write(example(6));
  CHECK(message_of<UsageError>([&] { store.read(7); }) == Contains("complete ones are of: 5, 6"));
  CHECK(message_of<UsageError>([&] { store.read(-1); }) == Contains("no checkpoint of mini-batch -1"));
  CHECK(message_of<UsageError>([&] { store.write(example(-1)); }) == Contains("mini-batch -1"));
  fs::copy(store.folder() + fifth, store.folder() + seventh);
  CHECK(message_of<UsageError>([&] { store.read(7); }) == Contains("holds the checkpoint of mini-batch 5: it was renamed"));
  fs::copy(store.folder() + sixth + "/stage-0.safetensors", store.folder() + fifth + "/stage-0.safetensors",
           fs::copy_options::overwrite_existing);
  CHECK(message_of<UsageError>([&] { store.read(5); }) == Contains("stage-0.safetensors' is damaged"));
  overwrite(folder / "file", "");
  CHECK(message_of<UsageError>([&] { CheckpointStore(folder / "file").complete(); }) == Contains("cannot be listed"));

  Checkpoint wrong = example(8);
  wrong.description = "\xff";
  CHECK(message_of<Error>([&] { store.write(wrong); }) == Contains("not UTF-8"));
  wrong = example(8);
  wrong.description.assign(size_t(17) << 20, 'x');
  CHECK(message_of<Error>([&] { store.write(wrong); }) == Contains("larger than 16 MiB"));
  wrong = example(8);
  wrong.stages[1].tensors["w"] = {"F32", {3}, {1}};
  CHECK(message_of<Error>([&] { store.write(wrong); }) == Contains("stage-1.safetensors': tensor 'w'"));
  CHECK(names_in(store.folder()).size() == 3);
}

TEST_CASE("hostile manifests are refused") {
  const Folder folder;
  const CheckpointStore store(folder.path);
  store.write(example(5));
  const std::string place = folder.path.string() + fifth, whole = bytes_of(place + "/manifest.json");
  auto refusal = [&](const std::string& from, const std::string& to) {
    seal(place, replaced(whole, from, to));
    CHECK(store.complete() == Numbers{5});
    return message_of<UsageError>([&] { store.read(5); });
  };
  const std::string bytes = "\"bytes\": " + std::to_string(fs::file_size(place + "/stage-0.safetensors"));
  CHECK(refusal(bytes, "\"bytes\": 9223372036854775807") == Contains("it was truncated"));
  CHECK(refusal(bytes, "\"bytes\": 18446744073709551615") == Contains("not a size"));
  CHECK(refusal(bytes, "\"bytes\": 1e400") == Contains("not JSON"));
  CHECK(refusal(bytes, "\"bytes\": -1") == Contains("not a size"));
  CHECK(refusal(bytes, "\"bytes\": 0") == Contains("more than the 0"));
  for (const std::string name :
       {"../stage-0.safetensors", "/etc/passwd", "stage-1.safetensors", "stage-00.safetensors", "", "manifest.json"})
    CHECK(refusal("stage-0.safetensors", name) == Contains("file 0 is not called stage-0.safetensors"));
  CHECK(refusal("\"stage-0.safetensors\"", "[0]") == Contains("is not called"));
  CHECK(refusal("\"sha256\": \"", "\"sha256\": \"0") == Contains("not 64 digits"));
  CHECK(refusal("\"sha256\"", "\"sha512\"") == Contains("no 'sha256'"));
  CHECK(refusal("\"version\": 1", "\"version\": 2") == Contains("this program reads version 1"));
  CHECK(refusal("\"version\"", "\"edition\"") == Contains("no 'version'"));
  CHECK(refusal("\"version\": 1", "\"version\": 1, \"more\": 1") == Contains("keys that are unknown"));
  CHECK(refusal("\"version\": 1", "\"version\": 1, \"version\": 1") == Contains("twice"));
  CHECK(refusal("\"minibatch\": 5", "\"minibatch\": 6") == Contains("renamed"));
  CHECK(refusal("\"minibatch\": 5", "\"minibatch\": -5") == Contains("mini-batch is not a size"));
  CHECK(refusal("\"description\": \"", "\"description\": 1, \"was\": \"") == Contains("keys that are unknown"));
  CHECK(refusal("\"files\": [", "\"files\": " + std::string(100'000, '[')) == Contains("nests more than"));
  CHECK(refusal("\"files\": [", "\"files\": [3, ") == Contains("file 0 is not an object"));
  for (const std::string text : {"", "[]", "3", "{}", "\"version\"", "{\"version\":1,\"minibatch\":5,\"description\":\"\",\"files\":{}}"}) {
    seal(place, text);
    CHECK(message_of<UsageError>([&] { store.read(5); }) == Contains("manifest.json' is no usable manifest"));
  }
  seal(place, R"({"version":1,"minibatch":5,"description":1,"files":[]})");
  CHECK(message_of<UsageError>([&] { store.read(5); }) == Contains("description is not a string"));
  seal(place, whole);
  fs::remove(place + "/stage-0.safetensors");
  REQUIRE(mkfifo((place + "/stage-0.safetensors").c_str(), 0600) == 0);
  CHECK(message_of<UsageError>([&] { store.read(5); }) == Contains("cannot read"));
}

TEST_CASE("a manifest with any byte changed or cut anywhere is read or refused") {
  const Folder folder;
  const CheckpointStore store(folder.path);
  store.write(example(5));
  const std::vector<uint8_t> whole = read_file(folder.path.string() + fifth + "/manifest.json");
  int read = 0, refused = 0;
  auto parse = [&](const std::vector<uint8_t>& bytes) {
    try {
      parse_manifest(bytes.data(), bytes.size(), "changed");
      ++read;
    } catch (const UsageError&) {
      ++refused;
    }
  };
  for (size_t i = 0; i < whole.size(); ++i) {
    for (int value :
         {0, 0x7f, 0x80, 0xff, int('"'), int('{'), int('}'), int('['), int(']'), int(','), int('-'), int('9'), int('\\'), whole[i] ^ 1}) {
      std::vector<uint8_t> changed = whole;
      changed[i] = uint8_t(value);
      parse(changed);
    }
    parse(std::vector<uint8_t>(whole.begin(), whole.begin() + long(i)));
  }
  CHECK(read > 100);  // a changed digit of a digest
  CHECK(refused > 1000);
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing, disturbed

TEST_CASE("nothing counts, and nothing old goes, before the disk has what it relies on") {
  const Folder folder;
  const CheckpointStore store(folder / "run/checkpoints");
  auto watch = [](const char* what, const std::function<void()>& call) {
    CAPTURE(what);
    const Watched watched;
    call();
    const std::vector<std::string> mistakes = disk.mistakes;
    for (const std::string& mistake : mistakes) FAIL_CHECK(mistake);
    return disk;
  };
  Disk seen = watch("first", [&] { store.write(example(5)); });
  CHECK(seen.unsynced.empty());
  CHECK(seen.by_name["open"] == 4);  // two stages, the manifest, the marker
  CHECK(seen.by_name["mkdir"] == 3);
  CHECK(seen.by_name["rename"] == 2);
  seen = watch("again", [&] { store.write(example(5, 1)); });
  CHECK(seen.by_name["rename"] == 3);
  CHECK(seen.by_name["remove marker"] == 1);  // of the one that was put aside
  CHECK(seen.by_name["remove"] + seen.by_name["unlinkat"] == 4);
  CHECK(seen.unsynced.empty());
  store.write(example(6));
  seen = watch("prune", [&] { store.prune(1, {}); });
  CHECK(seen.by_name["remove marker"] == 1);
}

TEST_CASE("killed at any call of a write, earlier checkpoints are whole and no half of one counts") {
  for (const Checkpoint& added : additions) {
    int calls = 0;
    for (bool killed = true; killed;) {
      ++calls;
      CAPTURE(calls);
      disturbed(added, [&](const CheckpointStore& store) {
        const Disk settings{.die_at = calls};
        killed = in_child([&] {
                   const Watched watched(settings);
                   store.write(added);
                   disk.watched = false;
                   return std::string("done");
                 }) == "the process died";
      });
    }
    CHECK(calls > 15);
  }
}

TEST_CASE("killed at any call of a pruning, what counts is whole") {
  int calls = 0;
  for (bool killed = true; killed;) {
    const Folder folder;
    const CheckpointStore store(folder.path);
    store.write(example(5, 1));
    fs::rename(folder / "000000000005", folder / "before");
    for (int64_t minibatch : {4, 5, 6}) store.write(example(minibatch));
    fs::rename(folder / "before", folder / "000000000005.old");  // it must not count again
    ++calls;
    killed = in_child([&] {
               const Watched watched({.die_at = calls});
               store.prune(1, 4);
               disk.watched = false;
               return std::string("done");
             }) == "the process died";
    CAPTURE(calls);
    for (int64_t minibatch : store.complete()) CHECK(same(store.read(minibatch), example(minibatch)));
    store.prune(1, 4);
    CHECK(store.complete() == Numbers{4, 6});
    CHECK(names_in(folder.path).size() == 2);
  }
  CHECK(calls > 10);
}

TEST_CASE("killed at any time, the last complete checkpoint never goes back") {
  const Folder folder;
  const CheckpointStore store(folder.path);
  int64_t last = 0;
  store.write(example(last));
  // A process is killed within a few of its writes, however long they take here.
  const auto start = std::chrono::steady_clock::now();
  in_child([&] {
    store.write(example(last));
    store.prune(2, {});
    return std::string("done");
  });
  const auto write = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  const uint32_t longest = uint32_t(std::max<int64_t>(4000, 4 * write.count()));
  const Random random{11, purpose("kill"), 0};
  for (uint64_t round = 0; round < 100; ++round) {
    const pid_t child = fork();
    if (child == 0)
      for (int64_t minibatch = last;; ++minibatch) {  // the last one again at first
        store.write(example(minibatch));
        store.prune(2, {});
      }
    usleep(random.below(round, longest));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const Numbers found = store.complete();
    REQUIRE(!found.empty());
    CHECK(found.back() >= last);
    for (int64_t minibatch : found) CHECK(same(store.read(minibatch), example(minibatch)));
    last = found.back();
  }
  CHECK(last > 10);
}

TEST_CASE("whichever call of a write fails, it says so, earlier checkpoints are whole and no half of one counts") {
  for (const Checkpoint& added : additions)
    for (int reason : {EIO, ENOSPC}) {
      int calls = 0;
      for (bool failed = true; failed;) {
        ++calls;
        CAPTURE(calls);
        disturbed(added, [&](const CheckpointStore& store) {
          doctest::String error;
          {
            const Watched watched({.fail_at = calls, .reason = reason});
            error = message_of<Error>([&] { store.write(added); });
            failed = disk.calls >= calls;
          }
          if (!failed) return;
          CHECK(error == Contains(store.folder().c_str()));
          CHECK(error == Contains(std::strerror(reason)));
          CHECK(error == Contains("; check the "));
          for (const std::string& name : names_in(store.folder()))
            CHECK((name.ends_with(".old") || fs::exists(store.folder() + "/" + name + "/complete")));
        });
      }
      CHECK(calls > 15);
    }
}

TEST_CASE("with files limited to any size, the write is refused and earlier checkpoints are whole") {
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit usual;
  getrlimit(RLIMIT_FSIZE, &usual);
  const Checkpoint added = example(7, 0, 3, 300);
  for (rlim_t bytes = 0; bytes < 1400; bytes += 23) {
    CAPTURE(bytes);
    disturbed(added, [&](const CheckpointStore& store) {
      const rlimit limited{bytes, usual.rlim_max};
      setrlimit(RLIMIT_FSIZE, &limited);
      const doctest::String error = message_of<Error>([&] { store.write(added); });
      setrlimit(RLIMIT_FSIZE, &usual);
      CHECK(error == Contains("000000000007.tmp/stage-0.safetensors': File too large; check the disk's free space"));
      CHECK(names_in(store.folder()).size() == 2);
    });
  }
  std::signal(SIGXFSZ, before);
}

TEST_CASE("on a full disk, the write is refused and earlier checkpoints are whole") {
  const Folder folder;
  const std::string said = in_child([&]() -> std::string {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", folder.path.c_str(), "tmpfs", 0, "size=256k") != 0)
      return std::string("skipped: no file system can be mounted: ") + std::strerror(errno);
    const CheckpointStore store(folder / "checkpoints");
    store.write(example(5));
    const Checkpoint added = example(7, 0, 3, 1500);
    const std::string filler = folder / "filler";
    for (uintmax_t free = 0;; free += 2048) {  // tmpfs takes 4 KiB at a time
      const uintmax_t available = fs::space(folder.path).available;
      if (available < free) return "the disk never sufficed";
      if (available > free) write_synced(filler, pieces_of(std::string(available - free, 'x')));
      const doctest::String error = message_of<Error>([&] { store.write(added); });
      const bool written = error == "nothing was thrown";
      const std::string at = " with " + std::to_string(free) + " bytes free";
      if (!written && !(error == Contains("No space left on device; check the disk's free space"))) return error.c_str() + at;
      if (!written && !(error == Contains(store.folder().c_str()))) return error.c_str() + at;
      if (store.complete() != (written ? Numbers{5, 7} : Numbers{5})) return "other checkpoints are complete" + at;
      if (!same(store.read(5), example(5))) return "checkpoint 5 has changed" + at;
      if (written) return same(store.read(7), added) && free > 6 * 4096 ? "" : "written" + at;
      if (names_in(store.folder()).size() != 1) return "something was left" + at;
      fs::remove(filler);
    }
  });
  if (said.starts_with("skipped")) MESSAGE(said);
  else CHECK(said == "");
}

TEST_CASE("a folder that must not be written to is named") {
  const Folder folder;
  const CheckpointStore store(folder / "checkpoints");
  store.write(example(5));
  fs::permissions(store.folder(), fs::perms(0555));
  const std::string said = in_child([&]() -> std::string {
    if (geteuid() == 0 && seteuid(65534) != 0) return "no other user";
    return message_of<Error>([&] { store.write(example(6)); }).c_str();
  });
  CHECK(said ==
        "cannot write '" + store.folder() + sixth + ".tmp': Permission denied; check the disk's free space and the folder's permissions");
  fs::permissions(store.folder(), fs::perms(0755));
  CHECK(store.complete() == Numbers{5});
}

// ---------------------------------------------------------------------------------------------------------------------
// Keeping some

TEST_CASE("pruning keeps the last ones and the best, and removes what interrupted writes left") {
  const Folder folder;
  const CheckpointStore store(folder.path);
  store.prune(1, {});
  for (int64_t minibatch : {1, 2, 3, 5, 6}) store.write(example(minibatch));
  const std::string base = folder.path.string();
  fs::copy(base + sixth, base + "/000000000009.tmp");  // interrupted
  fs::copy(base + sixth, base + seventh);
  fs::remove(base + seventh + "/complete");
  fs::copy(base + fifth, base + fifth + ".old");  // interrupted once the new one was complete
  fs::copy(base + sixth, base + sixth + ".old");  // interrupted before
  fs::remove(base + sixth + "/complete");
  fs::create_directory(base + "/12");
  overwrite(base + "/notes", "mine");
  const std::string damaged = base + "/000000000003";
  overwrite(damaged + "/complete", "damaged");
  CHECK(store.complete() == Numbers{1, 2, 5, 6});

  store.prune(2, 1);
  CHECK(store.complete() == Numbers{1, 5, 6});
  CHECK(names_in(base) == std::set<std::string>{"000000000001", "000000000003", "000000000005", "000000000006.old", "12", "notes"});
  for (int64_t minibatch : {1, 5, 6}) CHECK(same(store.read(minibatch), example(minibatch)));
  store.prune(3, 4);  // no such best one: nothing more is kept for it
  CHECK(store.complete() == Numbers{1, 5, 6});
  store.prune(1, 6);
  CHECK(store.complete() == Numbers{6});
  store.write(example(6, 1));  // beside the one that was put aside
  CHECK(same(store.read(6), example(6, 1)));
  CHECK(!fs::exists(base + sixth + ".old"));
  store.prune(0, {});
  CHECK(names_in(base) == std::set<std::string>{"000000000003", "12", "notes"});
  CHECK(message_of<UsageError>([&] { store.prune(-1, {}); }) == Contains("give 0 or more"));
}
